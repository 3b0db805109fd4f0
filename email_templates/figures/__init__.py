"""Which figures a statement, an invoice and an ageing table show."""
