"""A process dies at every boundary of reminding, while customers pay: each letter and fee once (B12, B14).

Real worker, beat and relay, real SIGKILL, on a database whose clock says that it is ten o'clock on a Wednesday. What is
paid while a letter waits makes it be rendered anew; that is one of the places at which somebody dies.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Event

import pytest
from celery import Celery

from models.base.unit_of_work import Database
from models.work.control import set_paused
from tests.acceptance.outcome import Outcome
from tests.faults.places import all_failpoints
from tests.support.rows.reminding import a_debtor, a_policy, pay
from tests.support.servers.processes import Processes, eventually
from tests.support.time.clock import Clock

pytestmark = pytest.mark.clock("2027-06-09 08:00")

#: The places of this pipeline.
REMINDERS = ("reminders.", "emails.renew:")
TEN = datetime(2027, 6, 9, 8, tzinfo=UTC)
DUE = date(2027, 6, 1)
#: Customers of one batch; some of them pay in part before their letters leave.
BATCH = 6
FEE = 500


@pytest.mark.timeout(240)
def test_each_letter_leaves_once_and_costs_its_fee_once_whoever_dies(
    *, clock: Clock, processes: Processes, database: Database, outcome: Outcome, tmp_path: Path
) -> None:
    clock.set(TEN)
    a_policy(database, [{"days": 3, "level": "first", "fee": FEE, "fee_currency": "EUR"}])
    points = {point for point in all_failpoints() if point.startswith(REMINDERS)}
    fired = tmp_path / "fired"
    fired.mkdir()
    armed = {"failpoints": ",".join(f"{point}=kill" for point in points), "failpoints_fired": fired}
    running = (processes.worker(**armed, wait=False), processes.relay(wait=False), processes.beat(wait=False))
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])
    pause = Event()
    everybody: list[str] = []
    partly: set[str] = set()

    def look() -> None:
        for process in running:
            if not process.alive():
                process.start(wait=False)
        for task, queue in (("reminders.plan", "payments"), ("emails.send", "mail"), ("work.rescue", "lifecycle")):
            app.send_task(task, queue=queue)
        pause.wait(0.4)

    def owe_more() -> None:
        """New debtors; their letters wait until some of them have paid in part."""
        with database.connection() as connection:
            set_paused(connection, "emails.send", True)
        refs = [f"schuldner-{len(everybody) + number}" for number in range(BATCH)]
        everybody.extend(refs)
        for ref in refs:
            a_debtor(database, ref, due_on=DUE)

        def written() -> bool:
            look()
            return planned(outcome, refs) == BATCH

        eventually(written, "the new debtors' letters are written", seconds=100)
        partly.update(refs[: BATCH // 2])
        for ref in refs[: BATCH // 2]:
            pay(database, ref, 2_500)
        with database.connection() as connection:
            set_paused(connection, "emails.send", False)

    owe_more()

    def all_done() -> bool:
        look()
        at_rest = outcome.one("SELECT count(*) FROM tenure.reminder_letters WHERE settled_at IS NULL") == 0
        if points - {file.name for file in fired.iterdir()}:
            if at_rest:
                owe_more()
            return False
        return at_rest

    eventually(all_done, "every place was died at, and all is settled", seconds=200)
    assert points == {file.name for file in fired.iterdir()}
    customers = len(everybody)
    mails = outcome.query("SELECT * FROM tenure.email_messages WHERE message = 'payment-reminder'")
    assert Counter(row.state for row in mails) == {"done": customers}
    copies = outcome.copies()
    assert {copies[row.message_id] for row in mails} == {1}
    for context in (row.context for row in mails):
        left = 7_500 if context["account_ref"] in partly else 10_000
        assert (context["total"], context["fees"]) == (left + FEE, FEE)
    fees = outcome.query("""
        SELECT account_id, count(*) AS n, sum(amount) AS amount FROM tenure.ledger_entries
         WHERE external_ref LIKE 'reminder-fee:%' GROUP BY account_id""")
    assert {(row.n, row.amount) for row in fees} == {(1, FEE)}
    assert len(fees) == customers


def planned(outcome: Outcome, refs: list[str]) -> int:
    found = outcome.one(
        """
        SELECT count(*) FROM tenure.reminder_letters AS letter
          JOIN tenure.accounts AS account ON account.id = letter.account_id
         WHERE account.ref = ANY (:refs) AND letter.withdrawn_at IS NULL""",
        refs=refs,
    )
    return int(found)
