"""How objects of an account are stored: sealed, under the account's own key."""
