"""How statements, invoices and credit notes are planned, issued and rendered."""
