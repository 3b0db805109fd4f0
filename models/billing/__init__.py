"""What customers owe and were told: ledger, open items, statements, invoices."""
