"""Where the data of a customer lies, which paths lead there, and what becomes of it."""
