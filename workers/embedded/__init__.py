"""Servers from wheels, on loopback."""
