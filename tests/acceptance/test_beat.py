"""Beat is a clock and no more: it keeps nothing, may be killed, may run twice, and fills no queue (W6, W11)."""

from __future__ import annotations

from pathlib import Path

import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from scheduler.timetable import TIMETABLE
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.processes import Processes, eventually, throughout
from workers.celery.routing import QUEUES
from workers.celery.waker import LONGEST_QUEUE

TASKS = {entry.task for entry in TIMETABLE}


def waiting(broker: redis.Redis) -> list[str]:
    """The tasks of all messages in the broker."""
    found = []
    for queue in QUEUES:
        for item in broker.lrange(queue, 0, -1):
            found += [task for task in TASKS if f'"task": "{task}"'.encode() in item]
    return found


def test_every_entry_is_ticked_at_once_and_nothing_is_written(
    processes: Processes, broker: redis.Redis, tmp_path: Path
) -> None:
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o555)
    beat = processes.beat(directory=directory)
    eventually(lambda: set(waiting(broker)) == TASKS, "a message for each entry waits", seconds=20)
    throughout(lambda: len(waiting(broker)) == len(TASKS), "more than one message for an entry waits", seconds=5)
    beat.kill()
    assert list(directory.iterdir()) == []
    assert "Traceback" not in beat.all_text()


def test_two_beats_one_of_them_killed_make_the_same_rows(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    customers(database, 30)
    one, two = processes.beat("one"), processes.beat("two")
    eventually(lambda: set(waiting(broker)) == TASKS, "a message for each entry waits")
    one.kill()
    broker.flushall()
    worker = processes.worker()
    one.start()
    two.kill()
    two.start()
    outcome.await_statements(30)
    outcome.is_whole(30)
    assert outcome.attempts("statements") == outcome.attempts("email_messages") == {1: 30}
    assert worker.alive()


def test_with_no_worker_the_broker_holds_few_messages_however_much_is_due(
    processes: Processes, database: Database, broker: redis.Redis
) -> None:
    """20,000 due rows, two relays, two Beats, and nobody who takes their messages for longer than a wake-up lives."""
    with database.connection() as connection:
        connection.execute(
            text("""
            INSERT INTO tenure.accounts (ref, name, currency)
            SELECT 'a' || n, 'A', 'EUR' FROM generate_series(1, 20000) AS n;
            INSERT INTO tenure.job_requests (kind, args, account_id)
            SELECT 'emails.send_account_set_up', '{}', id FROM tenure.accounts""")
        )
    for name in ("one", "two"):
        processes.relay(f"relay-{name}")
        processes.beat(f"beat-{name}")
    eventually(lambda: "requests.handle" in waiting(broker), "a message waits")
    before = broker.info("memory")["used_memory"]
    most = len(QUEUES) * LONGEST_QUEUE
    throughout(lambda: len(waiting(broker)) <= len(TASKS) * 3, "messages pile up", seconds=20)
    assert len(waiting(broker)) < most
    assert broker.info("memory")["used_memory"] < before + 2**20
