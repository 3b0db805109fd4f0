"""How the company speaks: languages, readers, figures, currencies, translations."""
