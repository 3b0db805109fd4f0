"""The loop that all work goes through: claim rows, do them, record them."""
