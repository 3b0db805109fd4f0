"""Sessions: 24 hours, then gone, whatever the store (P9.3).

The sweep, ticked every few minutes, removes what nobody may read any more: from Tenure's own store, whose readers never
see an expired session anyway (the view `tenure.live_sessions` decides, S2), and from those of other programs. Swept
twice, or by two at once, there is nothing to find. A sweep that is broken off has kept what it did. Revocation comes as
a request.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import structlog
from celery import shared_task
from sqlalchemy import Row, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session as UnitOfWork

from email_templates.catalogue.security import SecurityEvent, SecurityNotice
from models.base.unit_of_work import Database, is_lock_timeout
from models.customers.account import Account
from models.data_map.map import AccountKeys
from models.sessions import sweep as session_sweep
from models.sessions.sweep import OWN
from models.work.counter import count
from tasks.client.requests import SessionsRevoke
from tasks.engine.failpoints import failpoint
from tasks.engine.task import Tick
from tasks.failures import Failure
from tasks.mail.queue import queue_for_contacts
from tasks.ports.context import Ports, current
from tasks.ports.sessions import Left, Swept
from tasks.requests.registry import handles

log = structlog.get_logger()

TASK = "sessions.sweep"
#: Rows deleted in one transaction, where rows must be deleted: short enough that nobody waits for it.
BATCH = 10_000
#: How often a lock that others hold is asked for in one sweep; the next sweep is minutes away.
TRIES = 3
#: Empty partitions dropped in one sweep. Each locks the whole table for milliseconds, and one in 45 minutes is new.
DROPS = 4
#: Seconds between two transactions of a sweep by the clock. A day's partitions can be emptied in less than a second;
#: while that goes on, a log-in on a small machine waits several times as long as otherwise, and nobody is in a hurry
#: (S4).
REST = 0.5
#: From here on a partition that cannot be emptied at once is emptied row by row: the first of its sessions has been
#: over for 50 minutes, and an hour is what it may stay (S2).
PRESSING = timedelta(hours=24, minutes=50)

MAKE = "SELECT tenure.make_session_partitions()"
EMPTY = "SELECT tenure.empty_session_partition(:partition)"
DROP = "SELECT tenure.drop_session_partition(:partition)"
DELETE = "SELECT gone, last FROM tenure.delete_ended_sessions(:partition, :batch, :since)"
RELEASE = "SELECT tenure.delete_released_sessions(:batch)"
ENDED = text("""
    SELECT name, since <= now() - :pressing AS pressing FROM tenure.session_partitions
     WHERE until <= now() - interval '24 hours' ORDER BY since""")


def sweep(ports: Ports, *, budget: timedelta | None = None) -> dict[str, int]:
    """Sweep every store, for as long as `budget` allows, or to the end and without a rest. Trouble with one keeps no
    other.

    Returns how many sessions went from each store by its name, and, where there is something to say: how many were
    `cut` to what is left of their day, how many stores are `unfinished` or `in_trouble`, and how old the oldest session
    left is (S7).
    """
    until = None if budget is None else monotonic() + budget.total_seconds()

    def stopping() -> bool:
        return ports.stopping() or (until is not None and monotonic() > until)

    counts: dict[str, int] = {}
    trouble = unfinished = cut = 0
    own = OwnSessions(ports.database, rest=0.0 if budget is None else REST)
    for store in (own, *ports.session_stores):
        try:
            store.check()
            swept = store.sweep(stopping)
            left = store.left()
        except Failure as failure:
            log.warning("sessions.not_swept", store=store.name, reason=str(failure))
            with ports.database.connection() as connection:
                session_sweep.note_trouble(connection, store.name, str(failure))
            trouble += 1
            continue
        with ports.database.connection() as connection:
            session_sweep.note(
                connection,
                store.name,
                gone=swept.gone,
                finished=swept.finished,
                oldest_at=left.oldest_at,
                outlasting=left.outlasting,
            )
            count(connection, TASK, "swept", swept.gone)
        failpoint("sessions.sweep", "after_note")
        counts[store.name] = swept.gone
        cut += swept.cut
        unfinished += not swept.finished
    said = {"cut": cut, "unfinished": unfinished, "in_trouble": trouble, "oldest_seconds": _oldest(ports)}
    return counts | {name: number for name, number in said.items() if number}


def _oldest(ports: Ports) -> int:
    """The age in whole seconds of the oldest session that is left in any store, 1 at the least; 0 where none is."""
    names = [OWN, *(store.name for store in ports.session_stores)]
    with ports.database.connection() as connection:
        age = connection.execute(
            text("""
                SELECT extract(epoch FROM now() - min(oldest_at)) FROM tenure.session_sweeps
                 WHERE store = ANY (:names)"""),
            {"names": names},
        ).scalar_one()
    return 0 if age is None else max(1, int(age))


class OwnSessions:
    """Tenure's own store: partitions are made ahead, emptied when all in them is over, and later dropped (S1, S3, S4).

    Where the sweep was away for hours, sessions are in the default partition. There they stay until they are over, and
    are deleted in batches.
    """

    name = OWN

    def __init__(self, database: Database, *, batch: int = BATCH, rest: float = 0.0) -> None:
        """`rest` is how many seconds are let pass after each transaction that took something away."""
        self._database = database
        self._batch = batch
        self._rest = rest

    def check(self) -> None:
        """It is what migrations made it."""

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        self._attempt(MAKE)
        failpoint("sessions.sweep", "after_make")
        with self._database.connection() as connection:
            ended = connection.execute(ENDED, {"pressing": PRESSING}).all()
        gone, finished = 0, True
        for partition in ended:
            if stopping():
                return Swept(gone, 0, finished=False)
            emptied = self._attempt(EMPTY, partition=partition.name)
            failpoint("sessions.sweep", "after_empty")
            if emptied is not None:
                gone += emptied[0]
                self._pause(emptied[0])
            elif partition.pressing:
                # Somebody has read it for long, as a backup does: rows can be deleted under their eyes.
                gone += self._delete(partition.name, stopping)
        gone += self._delete("sessions_default", stopping)
        if stopping():
            finished = False
        else:
            self._release(stopping)
        for partition in ended[:DROPS]:
            dropped = self._attempt(DROP, partition=partition.name)
            failpoint("sessions.sweep", "after_drop")
            self._pause(dropped is not None and dropped[0])
        return Swept(gone, 0, finished)

    def _delete(self, partition: str, stopping: Callable[[], bool]) -> int:
        """Delete a partition's ended sessions in batches, oldest first; what others hold is left to the next time."""
        deleted, since = 0, UUID(int=0)
        while not stopping():
            done = self._attempt(DELETE, partition=partition, batch=self._batch, since=since)
            failpoint("sessions.sweep", "after_delete")
            if done is None or done.gone == 0:
                break
            deleted, since = deleted + done.gone, done.last
            if done.gone < self._batch:
                break
            self._pause(done.gone)
        return deleted

    def _release(self, stopping: Callable[[], bool]) -> None:
        """Delete what legal holds kept and none keeps any more (S6). It counted as gone when it was over."""
        while True:
            done = self._attempt(RELEASE, batch=self._batch)
            failpoint("sessions.sweep", "after_release")
            if done is None or done[0] < self._batch or stopping():
                break
            self._pause(done[0])

    def _pause(self, took_away: int) -> None:
        if took_away:
            sleep(self._rest)

    def _attempt(self, statement: str, **values: Any) -> Row[Any] | None:
        """Run a statement in a transaction of its own, again where a lock was not to be had; None if it never was."""
        for tried in range(TRIES):
            if tried:
                sleep(random.uniform(0.05, 0.15))  # noqa: S311 - so that two sweeps part
            try:
                with self._database.connection() as connection:
                    return connection.execute(text(statement), values).one()
            except DBAPIError as error:
                if not is_lock_timeout(error):
                    raise
        log.info("sessions.in_use", statement=statement)
        return None

    def end(self, account: AccountKeys) -> int:
        """The freeze has ended them, and ends nothing again."""
        with self._database.connection() as connection:
            connection.execute(text("SELECT tenure.end_sessions(:account)"), {"account": account.id})
        return 0

    def left(self) -> Left:
        with self._database.connection() as connection:
            oldest = connection.execute(text("SELECT created_at FROM tenure.sessions ORDER BY id LIMIT 1"))
            return Left(oldest.scalar_one_or_none())

    def count(self) -> int:
        with self._database.connection() as connection:
            return int(connection.execute(text("SELECT count(*) FROM tenure.sessions")).scalar_one())

    def close(self) -> None:
        self._database.engine.dispose()


@handles(SessionsRevoke)
def revoke(session: UnitOfWork, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """End all sessions of an account and tell its contacts, for a request `sessions.revoke`."""
    ended = session.execute(text("SELECT tenure.end_sessions(:account)"), {"account": account_id}).scalar_one()
    notice = SecurityNotice(
        event=SecurityEvent.SESSIONS_SIGNED_OUT,
        account_name=session.get_one(Account, account_id).name,
        happened_at=session.execute(select(func.now())).scalar_one(),
        sessions=ended,
    )
    queue_for_contacts(session, account_id, notice, f"request:{request_id}", ports)


@shared_task(name=TASK, base=Tick)
def sweep_sessions() -> dict[str, int]:
    ports = current()
    counts = sweep(ports, budget=ports.budget)
    if counts.get("unfinished") and not ports.stopping():
        ports.wake(TASK)
    return counts
