"""Partitions for usage events, made months ahead by a tick; made twice, they are there once."""

from __future__ import annotations

from celery import shared_task
from psycopg.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tasks.engine.failpoints import failpoint
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current


def make(ports: Ports) -> int:
    """Make what is missing until three months ahead; how many. Where the table is busy, the next tick will do."""
    try:
        with ports.database.connection() as connection:
            made: int = connection.execute(text("SELECT tenure.make_usage_partitions()")).scalar_one()
            failpoint("usage.partition", "before_commit")
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        return 0
    return made


@shared_task(name="usage.partition", base=Tick)
def partition_usage() -> dict[str, int]:
    return {"made": make(current())}
