"""Mails and documents as tests read them."""
