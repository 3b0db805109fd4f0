"""A bare Celery worker with the two libraries that everyone has: what P10 compares the memory of ours with.

celery -A benchmarks.bare worker --concurrency 2
"""

from __future__ import annotations

import os

import boto3
import sqlalchemy.orm
from celery import Celery

LOADED = (boto3, sqlalchemy.orm)

app = Celery("bare", broker=os.environ.get("TENURE_BROKER_URL"))
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
)
