"""Celery as Tenure runs it: configuration, queues, beat, waker, consumer, signals, logs."""
