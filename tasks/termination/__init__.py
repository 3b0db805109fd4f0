"""The end of a contract, step by step: freeze, export, delivery, purge and proof (P6.1, T1)."""
