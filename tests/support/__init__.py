"""What tests stand on: servers, rows, rendered text, the clock and its deadlines."""
