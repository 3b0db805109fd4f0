"""A job: one kind of work over one table of work rows, and the row that it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from models.work.row import Retries, Work
from tasks.ports.context import Ports

Item = TypeVar("Item")


Result = TypeVar("Result")


#: When rows are tried again where a job says nothing else: locks, conflicts, other passing troubles of our own.
MINUTES = Retries(first=timedelta(seconds=2), longest=timedelta(hours=1), lasting=timedelta(minutes=5))


#: A server of others that is there and cannot do it yet: objects, processors, the provider of payments.
DAYS = Retries(first=timedelta(seconds=10), longest=timedelta(hours=2), lasting=timedelta(days=3))


class AlreadyEnded(Exception):
    """Raised by `act` after it has moved the row to an end state itself. The drain then records nothing."""


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """The row that `act` works on: its id, the claim token, and the ports."""

    ports: Ports
    id: UUID
    token: UUID


@dataclass(frozen=True)
class Job(Generic[Item, Result]):
    """One kind of work over one table of work rows.

    `load` reads what a batch needs in one short transaction; `act` does one item with no transaction open; `record`
    writes the effect of the rows that are still ours, in the transaction that sets them to done. All three may run
    again for the same row: what makes that harmless is the token, and unique indexes in what `record` inserts.
    """

    #: The name of the Celery task that drains it.
    task: str
    table: type[Work]
    load: Callable[[Session, Sequence[UUID]], Mapping[UUID, Item]]
    act: Callable[[Item, ClaimedRow], Result]
    record: Callable[[Session, Mapping[UUID, Result], Ports], None]
    #: What Flower shows: `{"sent": 97}`.
    done: str = "done"
    #: How many rows are claimed, and how many are recorded, in one transaction.
    batch: int = 100
    record_every: int = 100
    #: A constant SQL condition where one table has several jobs.
    where: str = "true"
    #: Tasks to wake after this job has finished rows, because its `record` creates work for them.
    wakes: Sequence[str] = field(default=())
    #: Higher-priority tasks (W8). While one of them waits for a process, this drain stops and requeues itself.
    yields_to: Sequence[str] = ("requests.handle", "emails.send_urgent")
    #: Limits that several jobs share, by the name under which an operator sets them (W7).
    limits: Sequence[str] = ()
    #: When a row is tried again after a failure that may pass.
    retries: Retries = MINUTES
    #: How long recording is tried again while PostgreSQL is away, for what `act` did and nobody can repeat.
    record_for: timedelta = timedelta(0)
