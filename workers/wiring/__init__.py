"""How a process gets its ports and its name."""
