"""Pruning: finished rows go after the time that their table keeps them (W10). Twice, it finds nothing.

Ticked every hour, in short transactions. Rows that failed or whose end is unknown wait for a person and stay, except
for what strangers can make without end: messages in quarantine, and payment events that the provider did not send.
"""

from __future__ import annotations

from dataclasses import dataclass
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
#: How long a message is kept in quarantine that nobody replays.
QUARANTINE_KEPT = timedelta(days=90)
#: How long a payment event is kept that was refused. What a genuine one was about, the nightly comparison finds.
REFUSED_EVENTS_KEPT = timedelta(days=30)


def prune(ports: Ports, *, batch: int = BATCH) -> int:
    """Delete what ended long ago, table by table; returns how many rows."""
    strangers = sum(_prune_strangers(ports, each, batch) for each in STRANGERS)
    return strangers + sum(_prune_table(ports, table, batch) for table in work_tables() if table.kept)


@dataclass(frozen=True, slots=True)
class Strangers:
    """Rows that strangers can make: which of a table go, after what time, and how they are counted."""

    table: str
    condition: str
    kept: timedelta
    outcome: str


STRANGERS = (
    Strangers("quarantine", "replayed_at <= now() - :kept", REPLAYED_KEPT, "pruned"),
    Strangers("quarantine", "replayed_at IS NULL AND received_at <= now() - :kept", QUARANTINE_KEPT, "never_replayed"),
    Strangers(
        "payment_events",
        "state = 'failed' AND account_id IS NULL AND finished_at <= now() - :kept",
        REFUSED_EVENTS_KEPT,
        "refused_events",
    ),
)


def _prune_table(ports: Ports, table: type[row.Work], batch: int) -> int:
    gone, last = 0, batch
    while last == batch and not ports.stopping():
        with ports.database.connection() as connection:
            last = row.prune(connection, table, limit=batch)
            count(connection, TASK, "pruned", last)
        gone += last
    return gone


def _prune_strangers(ports: Ports, which: Strangers, batch: int) -> int:
    gone, last = 0, batch
    while last == batch and not ports.stopping():
        with ports.database.connection() as connection:
            last = connection.execute(
                text(f"""
                    DELETE FROM tenure.{which.table} WHERE id = ANY (ARRAY(
                        SELECT id FROM tenure.{which.table}
                         WHERE {which.condition} LIMIT :batch FOR UPDATE SKIP LOCKED))"""),
                {"kept": which.kept, "batch": batch},
            ).rowcount
            count(connection, TASK, which.outcome, last)
        gone += last
    return gone


@shared_task(name=TASK, base=Tick)
def prune_work() -> dict[str, int]:
    return {"pruned": prune(current())}
