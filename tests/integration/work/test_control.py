"""Pause, concurrency and rate hold over all workers, because PostgreSQL holds them (W7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Barrier, Thread
from time import monotonic

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from models.base.unit_of_work import Database
from models.work import control, row
from models.work.request import JobRequest
from tasks.engine.drain import _claim
from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tests.integration.work.test_row import LEASE

TASK = "requests.handle"


@pytest.fixture
def backlog(database: Database) -> Database:
    with database.connection() as connection:
        connection.execute(
            text("INSERT INTO tenure.job_requests (kind, args) SELECT 'model', '{}' FROM generate_series(1, 200)")
        )
    return database


def limit(database: Database, **limits: float | None) -> None:
    with database.connection() as connection:
        chosen = {"concurrency": None, "rate": None} | limits
        control.set_limits(connection, TASK, **chosen)  # type: ignore[arg-type]


def claim(connection: Connection, wanted: int) -> row.Claim:
    allowed = control.allowance(connection, JobRequest, TASK, wanted)
    return row.claim(connection, JobRequest, allowed, worker="host|1|1", lease=LEASE)


@contextmanager
def claimed(database: Database, wanted: int) -> Iterator[row.Claim]:
    with database.connection() as connection:
        yield claim(connection, wanted)


def test_without_limits_all_that_is_wanted_may_be_claimed(backlog: Database) -> None:
    with claimed(backlog, 50) as found:
        assert len(found.ids) == 50


def test_concurrency_counts_what_runs_over_all_workers(backlog: Database) -> None:
    limit(backlog, concurrency=30)
    with claimed(backlog, 20) as first:
        assert len(first.ids) == 20
    with claimed(backlog, 20) as second:
        assert len(second.ids) == 10
    with claimed(backlog, 20) as third:
        assert not third
    with backlog.connection() as connection:
        row.finish(connection, JobRequest, first.token, first.ids)
    with claimed(backlog, 50) as fourth:
        assert len(fourth.ids) == 20


def test_workers_that_claim_at_once_do_not_exceed_it(backlog: Database) -> None:
    limit(backlog, concurrency=10)
    together = Barrier(6)
    found: list[int] = []

    def one() -> None:
        together.wait()
        with claimed(backlog, 7) as mine:
            found.append(len(mine.ids))

    threads = [Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 10


def test_a_rate_lets_through_what_its_time_gives(backlog: Database) -> None:
    limit(backlog, rate=20)
    with backlog.connection() as connection:
        connection.execute(text("UPDATE tenure.work_controls SET refilled_at = now() - interval '10 seconds'"))
    begun = monotonic()
    taken = 0
    while taken < 40:
        with claimed(backlog, 50) as found:
            taken += len(found.ids)
    # One second's worth was saved up, and no more, however long nothing was claimed.
    assert taken <= 20 + 20 * (monotonic() - begun) + 1


@pytest.mark.parametrize("suspects", [False, True])
def test_a_look_that_finds_nothing_uses_up_none_of_the_rate(ports: Ports, database: Database, suspects: bool) -> None:
    """Of the job's own rate and of one that it shares; else each look for suspects would cost a row."""
    shared = replace(HANDLE, limits=("shared",))
    with database.connection() as connection:
        for name in ("shared", TASK):
            control.set_limits(connection, name, concurrency=None, rate=5)
        connection.execute(text("UPDATE tenure.work_controls SET tokens = 5"))
    for _ in range(20):
        assert not _claim(shared, ports, suspects=suspects)
    with database.connection() as connection:
        assert connection.execute(text("SELECT min(tokens) FROM tenure.work_controls")).scalar_one() >= 5


def test_what_the_own_limit_refuses_is_not_taken_from_the_shared_one(ports: Ports, backlog: Database) -> None:
    shared = replace(HANDLE, limits=("shared",))
    with backlog.connection() as connection:
        control.set_limits(connection, "shared", concurrency=None, rate=5)
        control.set_limits(connection, TASK, concurrency=0, rate=None)
        connection.execute(text("UPDATE tenure.work_controls SET tokens = 5 WHERE task = 'shared'"))
    assert not _claim(shared, ports)
    with backlog.connection() as connection:
        tokens = connection.execute(text("SELECT tokens FROM tenure.work_controls WHERE task = 'shared'")).scalar_one()
    assert tokens >= 5


def test_limits_are_lifted(backlog: Database) -> None:
    limit(backlog, concurrency=0)
    with claimed(backlog, 5) as found:
        assert not found
    limit(backlog)
    with claimed(backlog, 5) as found:
        assert len(found.ids) == 5


@pytest.mark.parametrize("limits", [{"concurrency": -1}, {"rate": 0}])
def test_limits_that_make_no_sense_are_refused(database: Database, limits: dict[str, float]) -> None:
    with pytest.raises(IntegrityError):
        limit(database, **limits)
