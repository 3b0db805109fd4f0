"""Plain Celery, as its manual begins: a message for each piece of work. The peer of P1.

celery -A benchmarks.plain worker --concurrency 2
"""

from __future__ import annotations

import os

from celery import Celery

QUEUE = "plain"

app = Celery("plain", broker=os.environ.get("TENURE_BROKER_URL"))
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, broker_connection_retry_on_startup=True)


@app.task(name="plain.noop")
def noop(row: str) -> None:
    """Nothing."""
