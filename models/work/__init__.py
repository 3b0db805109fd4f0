"""The work row: what is due, who has claimed it, and how it ended."""
