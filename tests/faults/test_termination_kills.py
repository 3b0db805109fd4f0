"""A process dies at every boundary of every step of a termination, and each step is asked for again and again (T4).

The whole circle with real worker, relay and beat: asked for, frozen, exported, announced, reminded of, delivered,
purged, verified, certified, told, forgotten, the record gone. At the end there is one record, one message of a kind and
one certificate of each, and the other customer is as before. What dies within a purge is in `test_purge_kills.py`.
"""

from __future__ import annotations

import email.policy
from collections import Counter
from datetime import date
from email.parser import BytesHeaderParser
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest
from celery import Celery
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.termination.termination import Step
from tasks.ports.context import Ports
from tasks.termination import requesting
from tests.acceptance.outcome import Outcome
from tests.faults.places import all_failpoints
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.servers.processes import Processes, TooLate, eventually

TERMINATIONS = "terminations."
TASKS = ("terminations.advance", "terminations.export", "terminations.purge")
#: Within the purge; around its step are those of every step.
WITHIN_PURGE = ("after_enter", "after_plan", "_batch", "_batch_commit", "_elsewhere", "after_store", "after_note")
#: How the subject of each message begins that everybody gets.
TOLD = (
    "The termination of ",
    "The record of your data is ready",
    "The record of your data is still waiting",
    "Last reminder: the record of your data",
    "All data of the account",
)
LEAVING = ("geht-1", "geht-2", "geht-3")
#: Waits end: what is put off is due, and windows are over when all that goes before them is done.
TIME_PASSES = (
    """UPDATE tenure.termination_steps SET due_at = now()
        WHERE state = 'pending' AND due_at > now() + interval '90 seconds'""",
    """UPDATE tenure.terminations AS over SET available_until = now()
        WHERE available_until > now() AND coalesce(stage_before, stage) IN ('sealed', 'certified')
          AND NOT EXISTS (SELECT FROM tenure.termination_steps
                           WHERE termination_id = over.id AND step IN ('notify', 'remind') AND state <> 'done')""",
)


def points() -> set[str]:
    return {
        point
        for point in all_failpoints()
        if point.startswith(TERMINATIONS)
        and not (point.startswith("terminations.purge:") and point.endswith(WITHIN_PURGE))
    }


@pytest.fixture
def leaving(database: Database, ports: Ports) -> list[UUID]:
    """Customers who leave at once, one who stays, and one whose steps cannot be done and fail."""
    made = []
    with database.transaction() as session:
        for ref in LEAVING:
            account = an_account(session, ref=ref)
            a_contact(session, account, name="Ada", email=f"{ref}@customer.example", language="en")
            an_entry(session, account, 100)
            session.execute(text("SELECT tenure.create_session(:ref, sha256(''))"), {"ref": ref})
            made.append(requesting.request(session, account.id, ports, source="sql").id)
        stays = an_account(session, ref="bleibt", period_start=date(2100, 1, 1))
        a_contact(session, stays, email="bleibt@customer.example")
        broken = an_account(session, ref="falsch")
        wrong = requesting.request(session, broken.id, ports, source="sql", ends_on=None).id
        session.execute(text("DELETE FROM tenure.termination_steps WHERE termination_id = :id"), {"id": wrong})
        for step in ("freeze", "export", "purge"):
            session.execute(
                text("INSERT INTO tenure.termination_steps (termination_id, step) VALUES (:id, :step)"),
                {"id": wrong, "step": step},
            )
        # The notice before the end is for contracts that still run: one has it all the same.
        session.execute(
            text("INSERT INTO tenure.termination_steps (termination_id, step) VALUES (:id, 'announce')"),
            {"id": made[0]},
        )
        session.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE step = 'begin'"))
    return made


@pytest.mark.timeout(480)
def test_the_whole_circle_whoever_dies_and_however_often_it_is_asked_for(
    processes: Processes, database: Database, outcome: Outcome, leaving: list[UUID], tmp_path: Path
) -> None:
    expected = points()
    fired = tmp_path / "fired"
    fired.mkdir()
    others = untouched(outcome)
    terms = {"grace_days": 0, "purge_quiet_hours": 0}
    armed = {"failpoints": ",".join(f"{point}=kill" for point in expected), "failpoints_fired": fired}
    running = (
        processes.worker(**terms, **armed, wait=False),
        processes.relay(**terms, wait=False),
        processes.beat(**terms, wait=False),
    )
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])
    pause = Event()

    def all_done() -> bool:
        for process in running:
            if not process.alive():
                process.start(wait=False)
        with database.connection() as connection:
            for statement in TIME_PASSES:
                connection.execute(text(statement))
        for task in TASKS * 10:
            app.send_task(task, queue="lifecycle")
        pause.wait(0.7)
        return not (expected - {file.name for file in fired.iterdir()}) and at_rest(outcome, leaving)

    try:
        eventually(all_done, "all died, and all is done", seconds=420)
    except TooLate as late:
        raise AssertionError(standing(expected, fired, outcome)) from late

    rows = outcome.query("SELECT * FROM tenure.terminations WHERE id = ANY (:ids)", ids=leaving)
    assert {row.stage for row in rows} == {"certified"}
    assert all(row.correspondence is None and row.archive_purged_at is not None for row in rows)
    steps = Counter(row.step for row in outcome.query("SELECT * FROM tenure.termination_steps WHERE state = 'done'"))
    assert steps == Counter({step: len(LEAVING) for step in Step} | {"announce": 1, "remind": 2 * len(LEAVING)})
    for row in rows:
        assert outcome.stored({str(row.id)}, "archives/") == set()
        kinds = outcome.query(
            "SELECT kind FROM tenure.certificates WHERE termination_id = :id ORDER BY number", id=row.id
        )
        assert [each.kind for each in kinds] == ["purge", "archive"]
    assert outcome.one("SELECT count(*) FROM tenure.export_links") == 0
    assert outcome.one("SELECT count(*) FROM tenure.email_messages WHERE termination_id = ANY (:ids)", ids=leaving) == 0
    assert {row.status for row in outcome.query("SELECT status FROM tenure.accounts WHERE ref LIKE 'purged:%'")} == {
        "purged"
    }
    assert {max(copies.values()) for copies in received(outcome.inbox).values()} == {1}
    for ref in LEAVING:
        assert subjects(outcome.inbox, f"{ref}@customer.example") == dict.fromkeys(TOLD, 1)
    assert untouched(outcome) == others


def at_rest(outcome: Outcome, leaving: list[UUID]) -> bool:
    return not outcome.query(
        """SELECT FROM tenure.terminations
            WHERE id = ANY (:ids) AND (archive_purged_at IS NULL OR correspondence IS NOT NULL)
            UNION ALL SELECT FROM tenure.termination_steps WHERE termination_id = ANY (:ids) AND state <> 'done'""",
        ids=leaving,
    )


def untouched(outcome: Outcome) -> list[tuple[object, ...]]:
    return [
        tuple(row)
        for row in outcome.query(
            """SELECT account, contact FROM tenure.accounts AS account JOIN tenure.contacts AS contact
                   ON contact.account_id = account.id WHERE ref = 'bleibt'"""
        )
    ]


def received(inbox: Path) -> dict[str, Counter[str]]:
    """How often each message came to each address."""
    parser = BytesHeaderParser(policy=email.policy.default)
    found: dict[str, Counter[str]] = {}
    for file in inbox.glob("*.eml"):
        head = parser.parsebytes(file.read_bytes())
        to = str(head["To"].addresses[0].addr_spec)
        found.setdefault(to, Counter())[str(head["Message-ID"])] += 1
    return found


def subjects(inbox: Path, address: str) -> Counter[str]:
    """How often each of these came to the address; the notice that a contract ends may come too late to be sent."""
    parser = BytesHeaderParser(policy=email.policy.default)
    heads = [parser.parsebytes(file.read_bytes()) for file in inbox.glob("*.eml")]
    said = [str(head["Subject"]) for head in heads if address in str(head["To"])]
    begun = [next((start for start in TOLD if subject.startswith(start)), subject) for subject in said]
    return Counter(begun) - Counter(subject for subject in begun if subject.startswith("Your contract ends"))


def standing(expected: set[str], fired: Path, outcome: Outcome) -> str:
    """What did not happen, when it is too late."""
    missing = sorted(expected - {file.name for file in fired.iterdir()})
    left = outcome.query(
        "SELECT step, number, state, last_error FROM tenure.termination_steps WHERE state <> 'done' ORDER BY id"
    )
    return f"not died at {missing}; not done {[tuple(row) for row in left]}"
