"""Writers notify the relay without committing one after the other, and what nobody announced is found by its poll
(W50).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from threading import Event, Thread
from time import monotonic

import psycopg
import pytest

from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tests.conftest import RecordedWaker
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline
from workers.services import relay

INSERT = "INSERT INTO tenure.job_requests (kind, args) VALUES ('statements.send', '{}')"


@pytest.fixture
def writers(database_url: str) -> Iterator[list[psycopg.Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(psycopg.connect(database_url)) for _ in range(8)]


def heard(database_url: str, work: list[psycopg.Connection]) -> list[str]:
    """What a listener is told when these transactions commit, in this order."""
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN tenure_work")
        for each in work:
            each.commit()
        # Whatever was sent before this one has come when it comes.
        listener.execute("LISTEN the_end")
        listener.execute("NOTIFY the_end")
        told = []
        for notification in listener.notifies(timeout=deadline(30)):
            if notification.channel == "the_end":
                break
            told.append(notification.payload)
        return told


def test_of_transactions_that_insert_at_the_same_time_one_notifies(
    writers: list[psycopg.Connection], database_url: str
) -> None:
    for each in writers:
        each.execute(INSERT)
    assert heard(database_url, writers) == ["job_requests"]
    # The next transaction notifies again, and another table has a notification of its own.
    writers[0].execute(INSERT)
    writers[1].execute("INSERT INTO tenure.payment_events (provider, delivery) VALUES ('stripe', sha256('1'))")
    assert sorted(heard(database_url, writers[:2])) == ["job_requests", "payment_events"]


def test_a_transaction_that_left_the_notification_to_another_is_found_by_the_poll(
    writers: list[psycopg.Connection], ports: Ports
) -> None:
    """It commits long after the other, whose notification the relay has answered."""
    woken = RecordedWaker()
    stop = Event()
    thread = Thread(target=relay.run, args=(replace(ports, wake=woken), [HANDLE], stop.is_set))
    first, second = writers[:2]
    first.execute(INSERT)
    second.execute(INSERT)
    first.rollback()
    thread.start()
    try:
        begun = monotonic()
        while monotonic() < begun + 0.5:
            assert not woken.woken
        second.commit()
        eventually(lambda: HANDLE.task in woken.woken, "the relay wakes the task", seconds=30)
    finally:
        stop.set()
        thread.join()
