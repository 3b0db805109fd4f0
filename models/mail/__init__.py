"""Which messages were queued and sent, what became of them, and which addresses get none."""
