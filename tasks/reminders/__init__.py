"""Which reminders are due, what they say, and what pauses them."""
