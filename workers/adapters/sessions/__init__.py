"""Session stores of other programs."""
