"""Documents: what a customer keeps, as PDF."""
