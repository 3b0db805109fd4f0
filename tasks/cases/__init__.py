"""What a step of a termination is given, what it returns, and the letters about it."""
