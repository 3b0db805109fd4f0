"""How details are kept right, and what is done to files and usage of customers."""
