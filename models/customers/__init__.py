"""Who the customers are: accounts, contacts, contracts, and what they did and submitted."""
