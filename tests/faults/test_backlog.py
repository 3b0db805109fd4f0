"""However much is due, few messages wait in the broker and a worker's memory stays as it is (W6).

`BACKLOG=1000000 pytest tests/faults/test_backlog.py -s` does it with a million rows.
"""

from __future__ import annotations

import os
from itertools import pairwise

import psutil
import pytest
import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome
from tests.support.servers.processes import Processes, Running, eventually

ROWS = int(os.environ.get("BACKLOG") or 100_000)
#: The broker may not hold more than this; it would refuse a message past it.
BROKER_BYTES = 50_000_000
FEW_MESSAGES = 10
#: How much larger a worker may be at the end of a backlog than in its middle.
GROWTH = 1.2


@pytest.mark.timeout(120 + ROWS / 2_000)
def test_a_backlog_drains_with_few_messages_and_flat_memory(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.job_requests (kind, args)
                SELECT 'benchmarks.noop', '{}' FROM generate_series(1, :rows)"""),
            {"rows": ROWS},
        )
    limit_before = broker.config_get("maxmemory")["maxmemory"]
    broker.config_set("maxmemory", BROKER_BYTES)
    try:
        processes.run("relay", ["benchmarks.noop"], lambda running: "relay.listening" in running.text())
        worker = processes.run(
            "worker",
            ["celery", "-A", "benchmarks.noop", "worker", "--concurrency=2", "--loglevel=INFO"],
            lambda running: " ready." in running.text(),
            drain_seconds=1,
        )
        messages: list[int] = []
        sizes: list[tuple[int, int]] = []

        def drained() -> bool:
            done = outcome.states("job_requests").get("done", 0)
            queues = [key for key in broker.keys("*") if broker.type(key) == b"list"]
            messages.append(sum(broker.llen(key) for key in queues))
            sizes.append((done, size(worker)))
            return done == ROWS

        eventually(drained, f"{ROWS} rows are done", seconds=100 + ROWS / 2_000)
        used = broker.info("memory")["used_memory"]
    finally:
        broker.config_set("maxmemory", limit_before)
    print(f"\n{ROWS} rows: at most {max(messages)} messages waited, broker {used / 1e6:.1f} MB, worker {spread(sizes)}")
    assert max(messages) <= FEW_MESSAGES
    assert used < BROKER_BYTES
    middle = [memory for done, memory in sizes if ROWS * 0.2 <= done <= ROWS * 0.6]
    assert max(memory for _, memory in sizes) <= GROWTH * max(middle)
    assert all(before[0] <= after[0] for before, after in pairwise(sizes))


def size(worker: Running) -> int:
    """What the worker and its children hold, bytes."""
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    return sum(process.memory_info().rss for process in family)


def spread(sizes: list[tuple[int, int]]) -> str:
    memory = [each for _, each in sizes]
    return f"{min(memory) / 1e6:.0f} to {max(memory) / 1e6:.0f} MB"
