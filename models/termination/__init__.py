"""How a contract ends: steps, purge, retentions, legal holds, certificates."""
