"""What every table shares: the declarative base, the unit of work, money and tax."""
