"""How does it run? The edge: Celery, settings, adapters, the command. Nothing imports this package."""
