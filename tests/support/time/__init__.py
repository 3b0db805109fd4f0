"""The clock of a test, deadlines, and other days."""
