"""The relay: from rows that are due to messages that say "look now", within a fraction of a second (W6).

It listens for PostgreSQL's notifications, and polls behind them; either way it asks which jobs have something due and
wakes those. Now and then it takes back what dead workers held (W4). It remembers nothing, so any number of relays may
run, and one that was away has missed nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep
from typing import Any

import psycopg
import structlog
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from models.work import row
from models.work.control import is_paused
from tasks.engine.failpoints import failpoint
from tasks.engine.job import Job
from tasks.engine.rescue import rescue_all
from tasks.ports.context import Ports
from tasks.sessions import sweep

log = structlog.get_logger()

CHANNEL = "tenure_work"
#: An account was frozen: its sessions in other programs' stores are to go at once (S6), of which no query tells.
SESSIONS = "sessions"
#: By which `tenure health relay` finds its connection.
APPLICATION_NAME = "tenure relay"
#: Seconds between two looks at all tables, when no notification comes: for what becomes due by the clock, and for what
#: was inserted while another transaction was about to notify (`models/schema/sql/040_work.sql`).
POLL = 0.1
#: Seconds between two messages for one job. The first is sent at once.
SPACING = 0.1
#: Seconds between two looks for rows whose worker is gone.
RESCUE = 5.0
#: Seconds between two tries to reach PostgreSQL.
RECONNECT = 2.0


def run(ports: Ports, jobs: Sequence[Job[Any, Any]], stop: Callable[[], bool]) -> None:
    """Wake jobs until `stop` says so. Outlives any outage of PostgreSQL and of the broker."""
    away = False
    while not stop():
        try:
            with _listening(ports.database) as connection:
                log.info("relay.listening_again" if away else "relay.listening")
                away = False
                _relay(connection, ports, jobs, stop)
        except (psycopg.OperationalError, DBAPIError) as error:
            if not away:
                reason = outage_reason(error) if isinstance(error, DBAPIError) else str(error).splitlines()[0]
                log.warning("postgresql.unavailable", reason=reason)
            away = True
            sleep(RECONNECT)


def _listening(database: Database) -> psycopg.Connection[Any]:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=5, application_name=APPLICATION_NAME, keepalives_idle=30
    )
    connection.execute(f"LISTEN {CHANNEL}")
    return connection


def _relay(
    connection: psycopg.Connection[Any], ports: Ports, jobs: Sequence[Job[Any, Any]], stop: Callable[[], bool]
) -> None:
    woken: dict[str, float] = {}
    waiting: set[str] = set()
    next_poll = next_rescue = monotonic()
    while not stop():
        if monotonic() >= next_rescue:
            rescue_all(ports)
            next_rescue = monotonic() + RESCUE
        if monotonic() >= next_poll:
            connection.execute("SELECT")  # shows in pg_stat_activity that we live
            waiting = {job.table.__tablename__ for job in jobs}
            next_poll = monotonic() + POLL
        waiting -= _wake_due(ports, [job for job in jobs if job.table.__tablename__ in waiting], woken)
        timeout = max(0.01, min(next_poll - monotonic(), SPACING / 5 if waiting else POLL))
        for notification in connection.notifies(timeout=timeout, stop_after=1):
            failpoint("relay", "after_notification")
            if notification.payload == SESSIONS:
                ports.wake(sweep.TASK)
            else:
                waiting.add(notification.payload)


def _wake_due(ports: Ports, jobs: Iterable[Job[Any, Any]], woken: dict[str, float]) -> set[str]:
    """Wake those of `jobs` that have something due; returns the tables that need no further look for now."""
    jobs = list(jobs)
    ready = [job for job in jobs if monotonic() - woken.get(job.task, -SPACING) >= SPACING]
    if ready:
        with ports.database.connection() as connection:
            found = row.due(connection, [(job.table, job.where) for job in ready])
            due = [job for job, is_due in zip(ready, found, strict=True) if is_due]
            for job in due:
                if not is_paused(connection, job.task, *job.limits):
                    failpoint("relay", "before_wake")
                    ports.wake(job.task)
                    failpoint("relay", "after_wake")
                    woken[job.task] = monotonic()
    spaced = {job.table.__tablename__ for job in jobs if job not in ready}
    return {job.table.__tablename__ for job in ready} - spaced


def main(ports: Ports, jobs: Sequence[Job[Any, Any]]) -> None:
    """Run until SIGTERM or Ctrl-C."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked.append(received))
    run(ports, jobs, lambda: bool(asked))
