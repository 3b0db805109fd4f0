"""Urgent mail is never behind bulk (W8, E9): a worker whose processes are all busy with a run makes room for it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.ports.context import Ports
from tests.acceptance.outcome import Outcome
from tests.support.rows.mailing import notice, queued
from tests.support.servers.processes import Processes, eventually, measured

BULK = 10_000
#: Seconds that an urgent message waits at the most (E9).
AT_MOST = 30


def waiting(outcome: Outcome) -> int:
    return int(outcome.one("SELECT count(*) FROM tenure.email_messages WHERE NOT urgent AND state <> 'done'"))


@pytest.mark.timeout(150)
def test_urgent_mail_overtakes_a_run_that_keeps_every_process_busy(
    database: Database, ports: Ports, processes: Processes, outcome: Outcome
) -> None:
    queued(database, ports, BULK)
    processes.relay()
    # A drain that did not give way would go on for longer than this test does.
    processes.worker(drain_seconds=600)
    eventually(lambda: waiting(outcome) < BULK - 20, "both processes are at the run")
    for number in range(3):
        before = waiting(outcome)
        (key,) = queued(database, ports, context=notice())
        eventually(
            lambda key=key: outcome.one("SELECT state FROM tenure.email_messages WHERE id = :id", id=key) == "done",
            "the urgent message is sent",
        )
        seconds = outcome.one(
            "SELECT extract(epoch FROM finished_at - created_at) FROM tenure.email_messages WHERE id = :id", id=key
        )
        left = waiting(outcome)
        assert left > 0, "the run was over, and nothing was shown"
        assert seconds < AT_MOST
        measured(f"urgent message {number + 1}: {seconds:.2f} s, {before - left} of the run meanwhile")
    # The run goes on afterwards.
    before = waiting(outcome)
    eventually(lambda: waiting(outcome) < before - 20, "the run goes on")
    assert set(outcome.copies().values()) == {1}
    with database.connection() as connection:
        assert connection.execute(text("SELECT max(attempts) FROM tenure.email_messages")).scalar_one() == 1
