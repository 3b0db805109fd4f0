"""What do we do? Plain functions that take what they need, and thin Celery shells around them."""
