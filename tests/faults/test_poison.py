"""Rows that kill their worker end in `failed` after their attempts, and their neighbours are done (W2)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis
from celery import Celery
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome
from tests.support.servers.processes import Processes, eventually

#: As tests/faults/poison.py has them, which only a worker can import.
TASK, QUEUE = "tests.poison", "sweeps"

DEADLY: Sequence[str] = ("segfault", "exit", "memory", "loop", "hang")
HARMLESS = 60
ATTEMPTS = 3


@pytest.mark.timeout(200)
def test_poison_fails_and_its_neighbours_are_done(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.job_requests (kind, args)
                SELECT 'poison', jsonb_build_object('how', how)
                  FROM unnest(CAST(:ways AS text[])) AS how ORDER BY md5(how)"""),
            {"ways": ["nothing"] * (HARMLESS // 2) + list(DEADLY) + ["nothing"] * (HARMLESS // 2)},
        )
    worker = processes.run(
        "worker",
        ["celery", "-A", "tests.faults.poison", "worker", "-Q", QUEUE, "--concurrency=2", "--loglevel=INFO"],
        lambda running: " ready." in running.text(),
        soft_time_limit=1,
        time_limit=2,
    )
    with Celery(broker=processes.addresses["TENURE_BROKER_URL"]) as client:

        def all_ended() -> bool:
            if not broker.llen(QUEUE):
                client.send_task(TASK, queue=QUEUE)
            return outcome.quiet()

        eventually(all_ended, "every row has ended", seconds=180)
    assert worker.alive()
    ends = {
        (row.how, row.state): (row.rows, row.attempts)
        for row in outcome.query("""
            SELECT args ->> 'how' AS how, state, count(*) AS rows, max(attempts) AS attempts
              FROM tenure.job_requests GROUP BY 1, 2""")
    }
    neighbours = ends.pop(("nothing", "done"))
    assert neighbours[0] == HARMLESS
    assert ends == {(how, "failed"): (1, ATTEMPTS) for how in DEADLY}
    assert all(row.last_error for row in outcome.query("SELECT * FROM tenure.job_requests WHERE state = 'failed'"))
