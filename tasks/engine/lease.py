"""Leases: renew a claim while its work goes on, rescue what dead processes held, give back what an outage broke off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic, sleep
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import is_outage
from models.work import row as work
from models.work.row import Work
from tasks.ports.context import Ports

log = structlog.get_logger()

#: Seconds between two tries to give a claim back, when PostgreSQL went away in the middle of its work.
GIVE_BACK_PAUSE = 1.0


def rescue(table: type[Work], ports: Ports) -> int:
    """Take back what dead processes on this host held, and what was held past its lease (W4).

    Past its lease means for half a lease more: a living process renews within a third (`renewed`), so that a step of
    the database's clock takes nothing from it.
    """
    host = ports.worker.partition("|")[0]
    with ports.database.connection() as connection:
        dead = ports.dead(work.holders(connection, table, host))
        return work.rescue_dead(connection, table, dead) + work.rescue(connection, table, grace=ports.lease / 2)


@contextmanager
def renewed(table: type[Work], token: UUID, ports: Ports) -> Iterator[None]:
    """Hold on to a claim while its work goes on, from a thread with a connection of its own.

    A stopped process (SIGSTOP, a frozen machine) does not renew: its lease runs out, and the token does the rest.
    """
    over = Event()
    pause = ports.lease.total_seconds() / 3

    def renew() -> None:
        while not over.wait(pause):
            try:
                with ports.database.connection() as connection:
                    work.renew(connection, table, token, ports.lease)
            except DBAPIError:
                log.warning("work.lease_not_renewed", table=table.__tablename__)

    thread = Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def give_back_later(table: type[Work], token: UUID, ports: Ports) -> None:
    """Give a claim back as soon as PostgreSQL answers again, from a thread: no tick may come to this process for long.

    Its rows lose no attempt, and need not wait for their lease, after which a rescue would take them in any case.
    """
    ends = monotonic() + ports.lease.total_seconds()

    def give_back() -> None:
        while monotonic() < ends:
            sleep(GIVE_BACK_PAUSE)
            try:
                with ports.database.connection() as connection:
                    work.give_back(connection, table, token)
            except DBAPIError as error:
                if is_outage(error):
                    continue
            return

    Thread(target=give_back, name="give-back", daemon=True).start()
