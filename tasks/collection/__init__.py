"""How money is collected: plan, attempts, outcomes, provider events, reconciliation."""
