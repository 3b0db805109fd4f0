"""Encryption of what lies in the object store: the file format, and the keys with which it is opened."""
