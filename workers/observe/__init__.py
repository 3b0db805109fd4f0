"""What an operator sees: health, metrics, the doctor, and whether promises are kept."""
