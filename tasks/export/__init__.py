"""The record of an account's data (P6.1): one sealed ZIP of CSV tables and files, and what checks it."""
