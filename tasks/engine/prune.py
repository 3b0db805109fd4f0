"""Pruning: finished rows go after the time that their table keeps them (W10). Twice, it finds nothing.

Ticked every hour, in short transactions. Rows that failed or whose end is unknown wait for a person and stay.
"""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from sqlalchemy import text

from models.work import row
from models.work.counter import count
from models.work.row import work_tables
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current

TASK = "work.prune"
#: Rows deleted in one transaction: short enough that nobody waits for it.
BATCH = 10_000
#: How long a message is kept that was in quarantine and has been replayed.
REPLAYED_KEPT = timedelta(days=30)


def prune(ports: Ports, *, batch: int = BATCH) -> int:
    """Delete what ended long ago, table by table; returns how many rows."""
    return _prune_quarantine(ports) + sum(_prune_table(ports, table, batch) for table in work_tables() if table.kept)


def _prune_table(ports: Ports, table: type[row.Work], batch: int) -> int:
    gone, last = 0, batch
    while last == batch and not ports.stopping():
        with ports.database.connection() as connection:
            last = row.prune(connection, table, limit=batch)
            count(connection, TASK, "pruned", last)
        gone += last
    return gone


def _prune_quarantine(ports: Ports) -> int:
    with ports.database.connection() as connection:
        gone = connection.execute(
            text("DELETE FROM tenure.quarantine WHERE replayed_at <= now() - :kept"), {"kept": REPLAYED_KEPT}
        ).rowcount
        count(connection, TASK, "pruned", gone)
    return gone


@shared_task(name=TASK, base=Tick)
def prune_work() -> dict[str, int]:
    return {"pruned": prune(current())}
