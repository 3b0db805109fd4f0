"""What an operator has said about a job: paused, so many at once, so many a second (W7).

It is held in PostgreSQL, so it counts for every worker. A job without a row has no limits, and costs one look-up a
batch to know it.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Connection, Double, Integer, Text, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import SCHEMA, Base, recorded
from models.data_map.map import Shared
from models.work.row import Work


class WorkControl(Base):
    """The limits of one job; the rate is a token bucket that holds one second's worth."""

    __tablename__ = "work_controls"
    __data_map__ = Shared("limits that an operator put on a job; the same for every customer")
    __table_args__ = (
        CheckConstraint("concurrency >= 0", name="concurrency"),
        CheckConstraint("rate > 0", name="rate"),
    )

    #: The name of the task that drains it, or of a limit that several jobs share.
    task: Mapped[str] = mapped_column(Text, primary_key=True)
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Rows running at the same time, over all workers.
    concurrency: Mapped[int | None] = mapped_column(Integer)
    #: Rows claimed a second, over all workers.
    rate: Mapped[float | None] = mapped_column(Double)
    tokens: Mapped[float] = mapped_column(Double, server_default=text("0"))
    refilled_at: Mapped[recorded]


def is_paused(connection: Connection, *tasks: str) -> bool:
    """Whether one of these, a job or a limit that it shares, is paused."""
    return bool(
        connection.execute(
            text("SELECT EXISTS (SELECT FROM tenure.work_controls WHERE paused AND task = ANY (:tasks))"),
            {"tasks": list(tasks)},
        ).scalar_one()
    )


def allowance(connection: Connection, work: type[Work], task: str, wanted: int, where: str = "true") -> int:
    """How many rows `task` may claim now, `wanted` at the most; called in the transaction of the claim.

    Where there is a limit its row stays locked until that transaction ends, so that workers who claim at the same time
    are counted one after the other. What a claim may take is taken from the rate; `give_back` returns what it did not
    find.
    """
    limits = connection.execute(
        text("SELECT paused, concurrency, rate FROM tenure.work_controls WHERE task = :task"), {"task": task}
    ).one_or_none()
    if limits is None:
        return wanted
    if limits.paused:
        return 0
    if limits.concurrency is None and limits.rate is None:
        return wanted
    row = connection.execute(
        text("""
            UPDATE tenure.work_controls
               SET tokens = coalesce(least(greatest(rate, 1),
                                tokens + rate * extract(epoch FROM clock_timestamp() - refilled_at)), 0),
                   refilled_at = clock_timestamp()
             WHERE task = :task RETURNING concurrency, rate, tokens"""),
        {"task": task},
    ).one()
    allowed = wanted
    if row.concurrency is not None:
        running = connection.execute(
            text(f"SELECT count(*) FROM {SCHEMA}.{work.__tablename__} WHERE state = 'running' AND ({where})")
        ).scalar_one()
        allowed = min(allowed, max(0, row.concurrency - running))
    if row.rate is not None:
        allowed = min(allowed, int(row.tokens))
        connection.execute(
            text("UPDATE tenure.work_controls SET tokens = tokens - :taken WHERE task = :task"),
            {"task": task, "taken": allowed},
        )
    return allowed


def give_back(connection: Connection, task: str, rows: int) -> None:
    """Return to the rate of `task` what a claim was allowed and did not find, in the transaction of the claim."""
    if rows > 0:
        connection.execute(
            text("UPDATE tenure.work_controls SET tokens = tokens + :rows WHERE task = :task AND rate IS NOT NULL"),
            {"task": task, "rows": rows},
        )


def set_paused(connection: Connection, task: str, paused: bool) -> None:
    connection.execute(
        insert(WorkControl)
        .values(task=task, paused=paused)
        .on_conflict_do_update(index_elements=["task"], set_={"paused": paused})
    )


def set_limits(connection: Connection, task: str, *, concurrency: int | None, rate: float | None) -> None:
    """Set both limits; None is no limit."""
    limits = {"concurrency": concurrency, "rate": rate}
    connection.execute(
        insert(WorkControl).values(task=task, **limits).on_conflict_do_update(index_elements=["task"], set_=limits)
    )
