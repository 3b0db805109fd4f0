"""`kill -9` at any point of a run of many statements (B5): one statement, one PDF, one message each, at the end.

STATEMENTS=1000 pytest -s tests/acceptance/test_statement_kills.py    # the full size; the seed is printed
"""

from __future__ import annotations

import os
import random
import time

import pytest

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.processes import Processes, eventually, measured

COUNT = int(os.environ.get("STATEMENTS", "120"))
KILLS = 8


@pytest.mark.timeout(900)
def test_kill_9_at_any_point_of_the_run(processes: Processes, database: Database, outcome: Outcome) -> None:
    seed = int(os.environ.get("STATEMENTS_SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    measured(f"seed {seed}: STATEMENTS_SEED={seed} repeats the choices")
    begun = time.monotonic()
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    workers = [processes.worker("one", concurrency=1), processes.worker("two", concurrency=1)]
    kills = 0

    def finished() -> bool:
        return outcome.statements_done() == COUNT and outcome.quiet()

    # From planning to the last mail: a kill at each eighth of the way, of a worker and at a moment that chance picks.
    for part in range(KILLS):
        reached = 2 * COUNT * part // KILLS
        eventually(
            lambda reached=reached: outcome.statements_done() + outcome.mails_sent() >= reached or finished(),
            f"{reached} of {2 * COUNT} steps are done",
            seconds=600,
        )
        time.sleep(chance.uniform(0, 0.7))
        victim = chance.choice(workers)
        victim.kill()
        kills += 1
        victim.start()
    outcome.await_statements(COUNT, seconds=600)
    unknown = outcome.is_whole(COUNT, may_be_unknown=True)
    assert len(unknown) <= kills, "more than one message for each kill of a worker with one child"
    # A message of which nobody can tell is settled by a person who asks the mail server: here, the inbox.
    copies = outcome.copies()
    assert sum(copies.values()) >= COUNT - len(unknown)
    assert set(copies.values()) <= {1}
    measured(
        f"{COUNT} statements, {kills} kills, {len(unknown)} unknown messages, {time.monotonic() - begun:.0f} s, "
        f"attempts {outcome.attempts('statements')}"
    )
