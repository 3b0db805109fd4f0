"""Death in the middle: of workers, of one child, of each server. Nothing is lost and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, Stack, customers
from tests.support.servers.commands import Commands
from tests.support.servers.processes import Processes, Running, eventually, measured, throughout
from tests.support.time.deadlines import deadline

COUNT = 150
#: Seconds that the broker is away (W18), and statements that fall due meanwhile.
OUTAGE = 60
MEANWHILE = 20


def in_the_middle(outcome: Outcome) -> None:
    """Until some statements are done, and not all."""
    eventually(lambda: outcome.statements_done() > 0, "the first statements are done")
    assert outcome.statements_done() < COUNT, "too quick to be disturbed: ask for more statements"


def mails_in_the_middle(outcome: Outcome) -> None:
    eventually(lambda: outcome.mails_sent() > 5, "the first mails are sent")
    assert outcome.mails_sent() < COUNT, "too quick to be disturbed: ask for more statements"


def test_a_killed_worker_loses_and_doubles_nothing(processes: Processes, database: Database, outcome: Outcome) -> None:
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    worker = processes.worker()
    for middle in (in_the_middle, mails_in_the_middle):
        middle(outcome)
        worker.kill()
        worker.start()
    outcome.await_statements(COUNT)
    unknown = outcome.is_whole(COUNT, may_be_unknown=True)
    assert len(unknown) <= 4, "more than one message for each child at each kill"
    measured(f"worker killed twice: {len(unknown)} unknown, attempts {outcome.attempts('statements')}")


def test_orphans_of_a_killed_worker_do_no_harm(processes: Processes, database: Database, outcome: Outcome) -> None:
    """The main process dies alone: its children, in the middle of their drains, live on for a while."""
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    worker = processes.worker()
    in_the_middle(outcome)
    worker.kill_main()
    other = processes.worker("other")
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT, may_be_unknown=True)
    assert other.alive()


def frozen_with_statements(outcome: Outcome) -> str | None:
    """Stop a child and see that it still holds statements: one that is running may be done with them by then."""
    for row in outcome.query("SELECT DISTINCT claimed_by FROM tenure.statements WHERE state = 'running'"):
        child = int(row.claimed_by.split("|")[1])
        os.kill(child, signal.SIGSTOP)
        if outcome.query(
            "SELECT FROM tenure.statements WHERE state = 'running' AND claimed_by = :held LIMIT 1", held=row.claimed_by
        ):
            return str(row.claimed_by)
        os.kill(child, signal.SIGCONT)
    return None


def test_rows_of_a_killed_child_are_recovered_without_waiting_for_the_lease(
    processes: Processes, database: Database, outcome: Outcome
) -> None:
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    worker = processes.worker(lease_seconds=600)
    in_the_middle(outcome)
    held = eventually(lambda: frozen_with_statements(outcome), "a child holds statements")
    child = int(held.split("|")[1])
    assert child in worker.children()
    os.kill(child, signal.SIGKILL)
    begun = outcome.one("SELECT clock_timestamp()")
    eventually(
        lambda: (
            not outcome.one(
                "SELECT count(*) FROM tenure.statements WHERE state = 'running' AND claimed_by = :held", held=held
            )
        ),
        "what the dead child held is free",
        seconds=30,
    )
    measured(f"rows of a killed child were free after {outcome.one('SELECT clock_timestamp()') - begun}")
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT, may_be_unknown=True)
    assert worker.alive()
    assert max(outcome.attempts("statements")) == 2


def test_an_emptied_broker_loses_and_doubles_nothing(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    worker = processes.worker()
    for middle in (in_the_middle, mails_in_the_middle):
        middle(outcome)
        broker.flushall()
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)
    assert worker.alive()
    assert outcome.attempts("statements") == {1: COUNT}
    assert "Traceback" not in worker.all_text()


@pytest.fixture
def own(stack: Stack, tmp_path: Path, commands: Commands) -> Iterator[tuple[Processes, Outcome]]:
    """Processes on servers that this test alone may break, with statements that are due."""
    with Processes(stack.environment, tmp_path, commands) as processes:
        environment = processes.environment()
        subprocess.run(
            [sys.executable, "-m", "workers.commands", "migrate"],
            check=True,
            timeout=deadline(60),
            env=environment,
            cwd=tmp_path,
        )
        database = Database(stack.environment["TENURE_DATABASE_URL"])
        customers(database, COUNT)
        yield processes, Outcome(database, Path(stack.environment["TENURE_INBOX"]), stack.environment)
        database.engine.dispose()


def says(running: Running, *words: str) -> Callable[[], list[str]]:
    """The lines of its log that hold all of these words."""
    return lambda: [line for line in running.all_text().splitlines() if all(word in line for word in words)]


@pytest.mark.timeout(300)
def test_a_broker_that_died_and_came_back_empty_after_a_minute(own: tuple[Processes, Outcome], stack: Stack) -> None:
    processes, outcome = own
    relay, beat, worker = processes.relay(), processes.beat(), processes.worker()
    in_the_middle(outcome)
    os.kill(stack.pid("valkey"), signal.SIGKILL)
    for running, words in ((worker, "onnection"), (relay, "broker.unavailable"), (beat, "broker.unavailable")):
        eventually(says(running, words), f"{running.name} says that the broker is away")
    customers(outcome.database, MEANWHILE, prefix="meanwhile-")
    everyone = (relay, beat, worker)
    throughout(lambda: all(running.alive() for running in everyone), "all wait for the broker", seconds=OUTAGE)
    stack.start("valkey")
    back, done = time.monotonic(), outcome.statements_done()
    assert done <= COUNT, "nobody could be told of the new ones"
    eventually(lambda: outcome.statements_done() > COUNT, "work goes on")
    measured(f"{time.monotonic() - back:.1f} s after the broker was back, work went on")
    outcome.await_statements(COUNT + MEANWHILE)
    outcome.is_whole(COUNT + MEANWHILE)
    assert outcome.attempts("statements") == {1: COUNT + MEANWHILE}
    for running in (relay, beat, worker):
        assert running.alive()
        assert "Traceback" not in running.all_text(), running.name


def test_a_database_that_died(own: tuple[Processes, Outcome], stack: Stack) -> None:
    processes, outcome = own
    relay, beat, worker = processes.relay(), processes.beat(), processes.worker()
    in_the_middle(outcome)
    os.kill(stack.pid("postgres"), signal.SIGKILL)
    for running in (worker, relay):
        eventually(says(running, "postgresql.unavailable"), f"{running.name} says that PostgreSQL is away")
    outcome.database.engine.dispose()
    stack.start("postgres")
    outcome.await_statements(COUNT)
    unknown = outcome.is_whole(COUNT, may_be_unknown=True)
    measured(f"PostgreSQL killed: {len(unknown)} unknown")
    assert len(unknown) <= 2, "more than the one message that each child was sending"
    assert outcome.attempts("statements") == {1: COUNT}
    for running in (relay, beat, worker):
        assert running.alive()
        assert "Traceback" not in running.all_text(), running.name


def test_an_object_store_that_was_away(own: tuple[Processes, Outcome], stack: Stack) -> None:
    processes, outcome = own
    processes.relay()
    worker = processes.worker()
    processes.beat()
    in_the_middle(outcome)
    stack.kill("s3")
    eventually(says(worker, "work.unavailable", "object store"), "the worker says that the object store is away")
    stack.start("s3")
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)
    assert outcome.attempts("statements") == {1: COUNT}
    assert len(says(worker, "work.unavailable")()) < 20
    assert "Traceback" not in worker.all_text()


def test_a_mail_server_that_was_away(own: tuple[Processes, Outcome], stack: Stack) -> None:
    processes, outcome = own
    processes.relay()
    worker = processes.worker()
    processes.beat()
    mails_in_the_middle(outcome)
    stack.kill("inbox")
    eventually(says(worker, "work.unavailable", "mail server"), "the worker says that the mail server is away")
    stack.start("inbox")
    outcome.await_statements(COUNT)
    unknown = outcome.is_whole(COUNT, may_be_unknown=True)
    assert len(unknown) <= 2, "more than the one message that each child was sending"
    assert outcome.attempts("email_messages") == {1: COUNT}
    assert len(says(worker, "work.unavailable")()) < 20
    assert "Traceback" not in worker.all_text()
