"""How a message becomes subject, text and HTML."""
