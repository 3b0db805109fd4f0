"""How much each task has done since the platform was installed: what metrics count, kept where the work is (W13).

A count is written in the transaction that did the work, so it is true whichever worker did it, and pruning rows does
not lower it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, CheckConstraint, Connection, SmallInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base
from models.data_map.map import Shared

#: Rows for each count, so that workers which finish at the same time seldom wait for each other.
SLOTS = 16


class Counter(Base):
    """One slot of one count; the count is the sum of its slots."""

    __tablename__ = "counters"
    __data_map__ = Shared("how many, and nothing of whose")
    __table_args__ = (CheckConstraint("value >= 0", name="value"),)

    task: Mapped[str] = mapped_column(Text, primary_key=True)
    #: What became of it: `sent`, `rendered`, `swept`, `failed`.
    outcome: Mapped[str] = mapped_column(Text, primary_key=True)
    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


def count(connection: Connection, task: str, outcome: str, number: int) -> None:
    """Add to a count, in the caller's transaction; the last thing before it commits, since it locks its slot."""
    if number:
        connection.execute(
            text(f"""
                INSERT INTO tenure.counters AS counter (task, outcome, slot, value)
                VALUES (:task, :outcome, pg_backend_pid() % {SLOTS}, :number)
                ON CONFLICT (task, outcome, slot) DO UPDATE SET value = counter.value + excluded.value"""),
            {"task": task, "outcome": outcome, "number": number},
        )


def counted(connection: Connection) -> Mapping[tuple[str, str], int]:
    """Every count, by task and outcome."""
    rows = connection.execute(
        text("SELECT task, outcome, sum(value)::bigint AS value FROM tenure.counters GROUP BY 1, 2 ORDER BY 1, 2")
    )
    return {(row.task, row.outcome): row.value for row in rows}
