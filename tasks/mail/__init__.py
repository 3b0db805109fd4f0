"""How queued messages are checked, composed, sent and followed up."""
