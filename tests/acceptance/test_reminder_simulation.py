"""What was simulated is what a real worker sends while time is advanced, message by message (B19).

A month around both changes of the clock of March, a customer in each of 30 time zones. The clock stands still for
nobody: each tick is published as Beat publishes it, and it goes on when the worker has done with it.
`tests/integration/reminders/test_forecast.py` does 400 days and 200 customers without a worker in each run of the
tests; `DAYS=400 CUSTOMERS=200` makes this one as large.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta

import pytest
from celery import Celery

from models.base.unit_of_work import Database
from tasks.reminders.forecast import simulate
from tests.acceptance.outcome import Outcome
from tests.support.rows.reminded_company import START, TICK, ZONES, a_company, written
from tests.support.rows.reminding import letters
from tests.support.servers.processes import Processes, Running, eventually, measured
from tests.support.time.clock import Clock

DAYS = int(os.environ.get("DAYS", "30"))
CUSTOMERS = int(os.environ.get("CUSTOMERS", str(len(ZONES))))


@pytest.mark.timeout(3600)
def test_a_month_of_a_real_worker_is_what_was_simulated(
    clock: Clock, processes: Processes, database: Database, outcome: Outcome
) -> None:
    clock.set(START)
    a_company(database, CUSTOMERS, until=DAYS * 5 // 6, holds=DAYS // 2 + 5)
    with database.snapshot() as session:
        foreseen = list(simulate(session, START, DAYS))
    # What found nothing to do is told to debuggers alone.
    worker = processes.worker(arguments=["--loglevel=DEBUG"])
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])

    moment = START
    while moment <= START + timedelta(days=DAYS):
        clock.set(moment)
        ticked(app, worker, "reminders.plan", "payments")
        while outcome.one("SELECT count(*) FROM tenure.email_messages WHERE state IN ('pending', 'running')"):
            ticked(app, worker, "emails.send", "mail")
        moment += TICK

    sent = letters(database)
    assert {row.state for row in sent} == {"done"}
    copies = outcome.copies()
    messages = outcome.query("SELECT message_id FROM tenure.email_messages")
    assert copies == Counter(row.message_id for row in messages), "each letter arrived, once, and nothing else did"
    # The two ends of the time differ by the hour, not by the day, around the earth.
    last = START + timedelta(days=DAYS - 2)
    all_sent = Counter(written(row.message, row.context) for row in sent)
    expected = Counter(written(each.message, each.context) for each in foreseen if each.at < last)
    found = Counter(written(row.message, row.context) for row in sent if row.local_day < last.date())
    assert expected - all_sent == {}, "foreseen, and not sent"
    assert found - Counter(written(each.message, each.context) for each in foreseen) == {}, "sent, and not foreseen"
    assert found.total() > 2 * CUSTOMERS, "a month in which little happens shows little"
    measured(f"{len(foreseen)} letters foreseen for {DAYS} days, {found.total()} compared with what the worker sent")


def ticked(app: Celery, worker: Running, task: str, queue: str) -> None:
    """One tick as Beat publishes it, until the worker says that it has done it."""
    begun = worker.log.stat().st_size
    sent = app.send_task(task, queue=queue)

    def done() -> bool:
        with worker.log.open("rb") as log:
            log.seek(begun)
            return any(b"task.done" in line and sent.id.encode() in line for line in log)

    eventually(done, f"{task} is done")
