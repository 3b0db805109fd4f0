"""Encryption and signatures: age files, wrapped keys, canonical JSON, signed documents."""
