"""Certificates that data were erased: signed, chained by their hashes, and checked without any server (T25)."""
