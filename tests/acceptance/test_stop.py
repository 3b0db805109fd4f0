"""Stopping: asked to, a worker hands back what it holds within seconds; frozen, it finds its work taken (W1, W9)."""

from __future__ import annotations

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers, send_task
from tests.support.servers.processes import Processes, eventually, measured

#: More than two workers make while one of them ends.
COUNT = 400


def test_a_worker_that_is_asked_to_stop_hands_back_what_it_holds(
    processes: Processes, database: Database, outcome: Outcome
) -> None:
    """A rolling deploy: the new worker is there before the old one has gone."""
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    old = processes.worker("old", lease_seconds=600)
    eventually(lambda: outcome.statements_done() > 0, "the first statements are done")
    new = processes.worker("new", lease_seconds=600, wait=False)
    old.terminate()
    seconds = old.await_end(30)
    measured(f"a worker in the middle of its drains ended {seconds:.1f} s after SIGTERM")
    assert outcome.statements_done() < COUNT, "too quick to be disturbed: ask for more statements"
    gone = f"|{old.pid}|"
    for table in ("statements", "email_messages"):
        holders = outcome.query(f"SELECT DISTINCT claimed_by FROM tenure.{table} WHERE state = 'running'")
        assert all(gone not in row.claimed_by for row in holders)
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)
    assert outcome.attempts("statements") == outcome.attempts("email_messages") == {1: COUNT}
    assert new.alive()
    assert "Traceback" not in old.all_text() + new.all_text()


def test_a_worker_alone_that_stops_leaves_no_row_running(
    processes: Processes, database: Database, outcome: Outcome
) -> None:
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    worker = processes.worker(lease_seconds=600)
    eventually(lambda: outcome.statements_done() > 0, "the first statements are done")
    worker.terminate()
    worker.await_end(30)
    assert outcome.statements_done() < COUNT, "too quick to be disturbed: ask for more statements"
    for table in ("statements", "email_messages"):
        assert set(outcome.states(table)) <= {"pending", "done"}
        assert outcome.one(f"SELECT max(attempts) FROM tenure.{table} WHERE state = 'pending'") in {0, None}
    worker.start()
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)


def test_a_frozen_worker_that_wakes_up_doubles_nothing(
    processes: Processes, database: Database, outcome: Outcome
) -> None:
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    frozen = processes.worker("frozen", lease_seconds=3, drain_seconds=30)
    eventually(lambda: outcome.statements_done() > 0, "the first statements are done")

    def frozen_in_the_middle() -> bool:
        frozen.stop()
        if outcome.states("statements").get("running"):
            return True
        frozen.resume()
        return False

    eventually(frozen_in_the_middle, "it is frozen while it holds statements")
    assert outcome.statements_done() < COUNT, "too quick to be disturbed: ask for more statements"
    other = processes.worker("other", lease_seconds=3)
    outcome.await_statements(COUNT)
    before = outcome.copies()
    frozen.resume()
    eventually(lambda: "work.taken_over" in frozen.text(), "it sees that its work was taken over")
    customers(database, 5, prefix="later-")
    send_task(processes, ("statements.plan", {}))
    eventually(lambda: outcome.statements_done() == COUNT + 5 and outcome.quiet(), "new work is done by both")
    unknown = outcome.is_whole(COUNT + 5, may_be_unknown=True)
    measured(f"a worker frozen past its lease: {len(unknown)} unknown")
    assert len(unknown) <= 2, "more than the one message that each child was sending"
    assert before <= outcome.copies()
    assert frozen.alive()
    assert other.alive()
