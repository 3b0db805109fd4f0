"""The download page, and the README inside an archive."""
