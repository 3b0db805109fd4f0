"""Which reminders were planned, by which policy, and what pauses them."""
