"""Processes that are no Celery worker: the relay and the download page."""
