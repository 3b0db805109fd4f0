"""The purge of an account's data (P6.1): store by store along the data map, in batches, with evidence of each."""
