"""The demo's company and its checks: believable, the same each time, and not fooled by what was tampered with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from email_templates.pdf.glyphs import drawable
from email_templates.pdf.typesetter import _covered
from models.base.unit_of_work import Database
from tasks.billing import statements
from tasks.client.requests import ask
from tasks.engine.drain import drain
from tasks.mail import send
from tasks.ports.context import Ports
from tasks.requests import handle
from tasks.requests.inbound import accept
from tasks.sessions import sweep
from tests.support.rows.raw_objects import put_raw
from workers.adapters.objects.s3 import S3ObjectStore
from workers.demo import checks
from workers.demo.asking import CHANGED_ITS_MIND, Asked, sign_up
from workers.demo.calendar import billing_date, billing_dates
from workers.demo.checks import CHECKS, Finding, Scene, expected_statements
from workers.demo.company import Company, make
from workers.demo.planting import Planted, plant
from workers.settings.settings import Settings

TODAY = date(2019, 11, 22)


@pytest.mark.parametrize(
    "today",
    [
        date(2019, 11, 22),
        date(2019, 1, 1),
        date(2019, 1, 31),
        date(2019, 2, 28),
        date(2020, 2, 29),
        date(2019, 12, 31),
    ],
)
def test_on_any_day_a_believable_company_comes_out_the_same(today: date) -> None:
    company = make(300, today)
    assert company == make(300, today)
    assert company.customers != make(300, today, seed=2).customers

    assert len(expected_statements(company)) >= 500
    customers = company.customers
    assert len({customer.name for customer in customers}) == len({customer.ref for customer in customers}) == 300
    addresses = [person.email for customer in customers for person in customer.people]
    assert len(set(addresses)) == len(addresses)
    assert all(address.isascii() and address.endswith(".example") for address in addresses)
    assert len({customer.country for customer in customers}) > 20
    assert {"EUR", "USD", "GBP", "JPY", "KWD", "CHF", "BRL", "AED"} <= {customer.currency for customer in customers}
    assert {"en", "de", "fr", "ar", "ja"} <= {p.language[:2] for customer in customers for p in customer.people}
    assert any(customer.has_late_entries for customer in customers)
    assert all(entry.occurred_at.date() < today for customer in customers for entry in customer.entries)


def test_a_small_company_still_has_a_late_entry_and_many_scripts() -> None:
    company = make(4, TODAY)
    assert [customer.country for customer in company.customers] == ["DE", "KW", "JP", "PT"]
    assert company.customers[0].has_late_entries
    assert len(make(1, TODAY).customers) == 1


def test_the_documents_can_draw_every_name() -> None:
    shown = [word for customer in make(1000, TODAY).customers for word in (customer.name, *customer.address)]
    assert [word for word in shown if "\ufffd" in drawable(word, _covered())] == []


def test_the_calendar_agrees_with_the_databases(database: Database) -> None:
    with database.connection() as connection:
        for billing_day in (1, 15, 28, 29, 30, 31):
            dates = billing_dates(billing_day, date(2020, 4, 30), 30)
            ends = connection.execute(
                text("SELECT tenure.period_end(day, :billing_day) FROM unnest(CAST(:days AS date[])) AS day"),
                {"billing_day": billing_day, "days": dates},
            ).scalars()
            assert list(ends)[:-1] == dates[1:]
    assert billing_date(2019, 2, 31) == date(2019, 2, 28)


@dataclass
class FakeFlower:
    """What Flower would answer."""

    seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        task = {"state": "SUCCESS", "args": "()", "kwargs": "{}", "result": "{'sent': 9}"}
        self.seen[str(uuid4())] = task | values

    def tasks(self) -> dict[str, dict[str, Any]]:
        return self.seen


@dataclass
class Done:
    """A small company whose work was done in this process, and the scene of it."""

    scene: Scene
    planted: Planted
    flower: FakeFlower


@pytest.fixture
def done(database: Database, database_url: str, ports: Ports, settings: Settings, inbox: Path) -> Iterator[Done]:
    objects = S3ObjectStore(settings)
    for key in checks._listed(objects.client, settings.s3_bucket):
        objects.client.delete_object(Bucket=settings.s3_bucket, Key=key)
    today = datetime.now(UTC).date()
    company = make(8, today)
    planted = plant(database, company, ports.letterhead.company)
    refs = [customer.ref for customer in company.customers]
    request = sign_up(database_url)
    with database.transaction() as session:
        ask(session, "sessions.revoke", {"account": refs[-1]}, dedupe_key=None, source="queue")
        ask(session, "statements.send", {"account": refs[0]}, dedupe_key=None, source="queue")
    accept("statements.send", (), {"acount": refs[0]}, message_id="wrong", ports=ports)
    statements.plan(ports)
    for job in (statements.RENDER, handle.HANDLE, send.SEND_URGENT, send.SEND):
        drain(job, ports)
    sweep.sweep(ports)
    flower = FakeFlower()
    flower.add()
    with database.connection() as connection:
        yield Done(
            Scene(
                connection=connection,
                objects=objects,
                keyring=ports.keyring,
                s3=objects.client,
                bucket=settings.s3_bucket,
                inbox=inbox,
                flower=flower,  # type: ignore[arg-type]
                company=company,
                asked=Asked(signed_up=request, revoked=refs[-1:], sent=refs[:1], welcomed=[], wrong="wrong"),
            ),
            planted,
            flower,
        )


def test_planting_writes_what_was_made(done: Done) -> None:
    company, planted = done.scene.company, done.planted
    assert planted.accounts == 8
    assert planted.late_entries >= 1
    assert planted.sessions == 8 * 40
    assert 0 < planted.expired_sessions < planted.sessions
    rows = done.scene.connection.execute(
        text("""SELECT count(*) AS entries, count(DISTINCT (account_id, sequence)) AS numbers, max(sequence) AS highest,
                       (SELECT count(*) FROM tenure.ledger_entries GROUP BY account_id ORDER BY 1 DESC LIMIT 1) AS most
                  FROM tenure.ledger_entries""")
    ).one()
    assert rows.entries == rows.numbers == sum(len(customer.entries) for customer in company.customers)
    assert rows.highest == rows.most
    first = done.scene.connection.execute(
        text("SELECT name FROM tenure.accounts WHERE ref = :ref"), {"ref": company.customers[0].ref}
    ).scalar_one()
    assert first == company.customers[0].name


def test_a_late_entry_stands_on_the_next_statement(done: Done) -> None:
    late = done.scene.connection.execute(
        text("""SELECT count(*) FROM tenure.statements AS statement JOIN tenure.ledger_entries AS entry
                       USING (account_id, currency)
                 WHERE description LIKE '%former account%' AND occurred_at < opens_at
                   AND sequence > opening_cutoff AND sequence <= cutoff""")
    ).scalar_one()
    assert late == done.planted.late_entries


def _sql(*statements: str) -> Callable[[Done], None]:
    def tamper(done: Done) -> None:
        for statement in statements:
            done.scene.connection.execute(text(statement))

    return tamper


def _unguarded(change: str) -> Callable[[Done], None]:
    return _sql("ALTER TABLE tenure.ledger_entries DISABLE TRIGGER USER", change)


def _copy_a_message(done: Done) -> None:
    file = min(done.scene.inbox.glob("*.eml"))
    for suffix in (".eml", ".json"):
        shutil.copy(file.with_suffix(suffix), file.with_name(f"copy{suffix}"))


def _lose_a_message(done: Done) -> None:
    min(done.scene.inbox.glob("*.eml")).unlink()


def _lead_a_message_astray(done: Done) -> None:
    file = min(done.scene.inbox.glob("*.json"))
    file.write_text(file.read_text().replace("@", "@not."))


def _put(key: str, body: bytes) -> Callable[[Done], None]:
    def tamper(done: Done) -> None:
        existing = min(checks._listed(done.scene.s3, done.scene.bucket))
        put_raw(done.scene.objects, key or existing, body)

    return tamper


def _show_in_flower(**values: Any) -> Callable[[Done], None]:
    def tamper(done: Done) -> None:
        person = done.scene.company.customers[0].people[0]
        done.flower.add(**{name: value.format(name=person.name, email=person.email) for name, value in values.items()})

    return tamper


def _many_messages(done: Done) -> None:
    for _ in range(101):
        done.flower.add()


#: What is done to the result, the check that must see it, and a word of what it must say.
TAMPERINGS: dict[str, tuple[Callable[[Done], None], Callable[[Scene], Finding], str]] = {
    "a balance is raised": (
        _sql(
            "UPDATE tenure.statements SET closing = closing + 1, not_due = not_due + 1"
            " WHERE id IN (SELECT id FROM tenure.statements LIMIT 1)"
        ),
        checks.statements_equal_ledger,
        "close with another balance",
    ),
    "the ledger is changed past its guard": (
        _unguarded("UPDATE tenure.ledger_entries SET amount = amount * 2 WHERE sequence = 1"),
        checks.statements_equal_ledger,
        "opening|add up|balance",
    ),
    "the documents say another balance": (
        _unguarded("UPDATE tenure.ledger_entries SET amount = amount * 7"),
        checks.documents_say_the_balance,
        "do not say it",
    ),
    "a statement is missing": (
        _sql("DELETE FROM tenure.statements WHERE id IN (SELECT id FROM tenure.statements LIMIT 1)"),
        checks.one_statement_a_period,
        "1 are missing",
    ),
    "a statement is of another period": (
        _sql("UPDATE tenure.statements SET period_start = period_start - 40"),
        checks.one_statement_a_period,
        "nobody expects",
    ),
    "a statement is not done": (
        _sql("UPDATE tenure.statements SET state = 'failed' WHERE id IN (SELECT id FROM tenure.statements LIMIT 1)"),
        checks.one_statement_a_period,
        "1 are not done",
    ),
    "a document is another": (_put("", b"%PDF-1.7 not this"), checks.documents_are_stored, "not what their rows"),
    "a document belongs to nothing": (
        _put("statements/stray.pdf", b"%PDF-"),
        checks.documents_are_stored,
        "belong to no statement",
    ),
    "a message came twice": (_copy_a_message, checks.every_mail_once, "1 arrived more than once"),
    "a message is lost": (_lose_a_message, checks.every_mail_once, "1 were sent and did not arrive"),
    "a message went astray": (_lead_a_message_astray, checks.every_mail_once, "1 went to someone else"),
    "nobody knows of a message": (
        _sql(
            "UPDATE tenure.email_messages SET state = 'unknown'"
            " WHERE id IN (SELECT id FROM tenure.email_messages LIMIT 1)"
        ),
        checks.every_mail_once,
        "may or may not",
    ),
    "a message is not ours": (
        _sql("DELETE FROM tenure.email_messages WHERE id IN (SELECT id FROM tenure.email_messages LIMIT 1)"),
        checks.every_mail_once,
        "1 nobody knows",
    ),
    "a session is too old": (
        _sql(
            "INSERT INTO tenure.sessions (id, account_id, secret_sha256)"
            " SELECT uuidv7(- interval '24 hours 5 minutes'), id, sha256('') FROM tenure.accounts LIMIT 1"
        ),
        checks.no_old_session,
        "1 older ones are stored",
    ),
    "live sessions are gone": (_sql("DELETE FROM tenure.sessions"), checks.no_old_session, "too soon"),
    "a request is not done": (
        _sql("UPDATE tenure.job_requests SET state = 'failed' WHERE kind = 'sessions.revoke'"),
        checks.requests_are_done,
        "1 are not done",
    ),
    "a request is lost": (
        _sql("DELETE FROM tenure.job_requests WHERE kind = 'sessions.revoke'"),
        checks.requests_are_done,
        "1 are missing",
    ),
    "what was rolled back is there": (
        _sql(f"INSERT INTO tenure.accounts (ref, name, currency) VALUES ('{CHANGED_ITS_MIND}', 'x', 'EUR')"),
        checks.rolled_back_left_nothing,
        "1 account",
    ),
    "a wrong message was dropped": (
        _sql("DELETE FROM tenure.quarantine"),
        checks.wrong_message_is_kept,
        "not there",
    ),
    "there were many messages": (_many_messages, checks.few_task_messages, "102 messages"),
    "a name is in a result": (
        _show_in_flower(result="{{'sent to': '{name}'}}"),
        checks.flower_shows_no_personal_data,
        "1 names or addresses stand there; 1 results",
    ),
    "an address is in an argument": (
        _show_in_flower(kwargs="{{'to': '{email}'}}"),
        checks.flower_shows_no_personal_data,
        "1 names or addresses stand there; 1 tasks show arguments",
    ),
}


def test_every_check_holds_and_sees_what_it_is_for(done: Done, subtests: pytest.Subtests) -> None:
    assert {finding.name: finding.figure for finding in checks.everything(done.scene) if not finding.holds} == {}

    files = {path: path.read_bytes() for path in done.scene.inbox.iterdir()}
    keys = {key: done.scene.objects.get(key) for key in checks._listed(done.scene.s3, done.scene.bucket)}
    seen = dict(done.flower.seen)
    for name, (tamper, check, words) in TAMPERINGS.items():
        with subtests.test(name):
            savepoint = done.scene.connection.begin_nested()
            try:
                tamper(done)
                finding = check(done.scene)
            finally:
                savepoint.rollback()
                _restore(done, files, keys)
                done.flower.seen = dict(seen)
            assert not finding.holds
            assert any(word in finding.figure for word in words.split("|")), finding.figure
            assert finding.sentence.endswith(".")
            assert check(done.scene).holds
    assert {check for _, check, _ in TAMPERINGS.values()} == set(CHECKS)


def _restore(done: Done, files: dict[Path, bytes], keys: dict[str, bytes]) -> None:
    for path in done.scene.inbox.iterdir():
        if path not in files:
            path.unlink()
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    for key in checks._listed(done.scene.s3, done.scene.bucket) - keys.keys():
        done.scene.s3.delete_object(Bucket=done.scene.bucket, Key=key)
    for key, body in keys.items():
        if done.scene.objects.get(key) != body:
            put_raw(done.scene.objects, key, body)


def test_what_cannot_be_looked_at_does_not_hold(done: Done) -> None:
    scene = replace(done.scene, inbox=Path("/nowhere"), flower=None)  # type: ignore[arg-type]
    wrong = {finding.name: finding.figure for finding in checks.everything(scene) if not finding.holds}
    assert "could not be checked" in wrong["few task messages"]
    assert "did not arrive" in wrong["every mail once"]


def test_the_first_period_of_each_customer_has_closed() -> None:
    company: Company = make(50, TODAY)
    for customer in company.customers:
        following = next(
            day
            for day in (customer.first_period + timedelta(days=days) for days in range(1, 40))
            if day == billing_date(day.year, day.month, customer.billing_day)
        )
        assert following < TODAY
