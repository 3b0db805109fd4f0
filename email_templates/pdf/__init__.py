"""How a statement or invoice becomes a PDF."""
