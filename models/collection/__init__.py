"""How money comes in: payment methods, attempts, provider events, reconciliations."""
