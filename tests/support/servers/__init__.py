"""Servers and processes that tests start, and others that misbehave."""
