"""`tenure policy`: every promise that can be measured is kept by a sound installation, and seen when it is broken.

The promises on what is collected, on cookies, and on the end of the contract among them (P2.1, P9.2, P6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
import redis
from celery import Celery
from sqlalchemy import Connection, select, text
from sqlalchemy.event import listen
from sqlalchemy.orm import Session

from email_templates.mail import rendering
from email_templates.pages import download_page
from models.base.unit_of_work import Database
from models.customers.account import Account
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage
from models.sessions.session import Session as WebSession
from tasks.billing import statements
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.support.rows.company import a_contact, an_account, an_entry
from workers.observe.promises import mail, pages
from workers.observe.promises.evidence import Installation, Verdict
from workers.observe.promises.report import PROMISES, only_catalogued_messages, statements_are_sent
from workers.settings.settings import Mode, Settings

MEASURED = {promise.measure.__name__: promise.measure for promise in PROMISES}


@pytest.fixture
def sound(database: Database, ports: Ports) -> Database:
    """An installation with a statement made and sent, and a session of today."""
    with database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        an_entry(session, account, 5_000)
        session.add(WebSession(account_id=account.id, secret_sha256=b"0" * 32))
    statements.plan(ports)
    drain(statements.RENDER, ports)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.email_messages SET state = 'done'"))
    return database


@contextmanager
def without_guards(connection: Connection) -> Iterator[None]:
    """As somebody with the owner's rights could do it: past the triggers."""
    connection.execute(text("ALTER TABLE tenure.ledger_entries DISABLE TRIGGER USER"))
    yield
    connection.execute(text("ALTER TABLE tenure.ledger_entries ENABLE TRIGGER USER"))


def tamper_with_the_ledger(connection: Connection) -> None:
    with without_guards(connection):
        connection.execute(text("UPDATE tenure.ledger_entries SET amount = amount + 1"))


def forget_a_period(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.accounts SET period_start = '2020-01-01'"))


def lose_a_mail(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.email_messages SET state = 'failed'"))


def queue_an_advertisement(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.email_messages SET message = 'summer-sale'"))


def keep_a_session_for_two_days(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.sessions SET id = uuidv7(- interval '2 days')"))


def move_a_contact_to_mars(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.contacts SET time_zone = 'Mars/Olympus'"))


def ask_nobody_for_two_years(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.contacts SET created_at = now() - interval '2 years'"))


def lose_a_confirmation(connection: Connection) -> None:
    connection.execute(text("UPDATE tenure.contacts SET email = 'new@customer.example'"))
    connection.execute(text("UPDATE tenure.job_requests SET state = 'failed' WHERE kind = 'details.confirm_change'"))


def make_a_table_that_nobody_mapped(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE public.rogue (id int PRIMARY KEY)"))


def disclose_without_approval(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE tenure.disclosure_events DISABLE TRIGGER USER"))
    connection.execute(
        text("""
            WITH asked AS (
                INSERT INTO tenure.disclosures (account_id, reference, legal_basis, asked_by)
                SELECT id, '1', '§ 1', 'ines' FROM tenure.accounts RETURNING id),
            approved AS (
                INSERT INTO tenure.disclosure_events (disclosure_id, action, person)
                SELECT id, 'approved', person FROM asked, unnest(ARRAY['INES', 'omar']) AS person)
            INSERT INTO tenure.disclosure_events (disclosure_id, action, person, manifest_sha256)
            SELECT id, 'made', 'ines', sha256('') FROM asked""")
    )


def end_a_contract(connection: Connection) -> None:
    connection.execute(
        text("""
            WITH ended AS (
                INSERT INTO tenure.terminations (account_id, requested_by, ends_at, cancel_until)
                SELECT id, 'sql', now(), now() FROM tenure.accounts RETURNING id)
            INSERT INTO tenure.termination_steps (termination_id, step, due_at)
            SELECT id, 'begin', now() - interval '1 hour' FROM ended""")
    )


def forget_a_step(connection: Connection) -> None:
    end_a_contract(connection)
    connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() - interval '2 days'"))


def lose_a_certificate(connection: Connection) -> None:
    end_a_contract(connection)
    connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER USER"))
    connection.execute(
        text("""
            UPDATE tenure.terminations SET stage = 'certified', archive_key = '1', archive_sha256 = sha256(''),
                   manifest_sha256 = sha256(''), exported_rows = '{}', sealed_at = now(), delivered_at = now(),
                   delivered_by = 'download', verified_at = now(), certified_at = now()""")
    )


BREAKS: list[tuple[str, Callable[[Connection], None]]] = [
    ("statements_are_sent", forget_a_period),
    ("statements_are_sent", lose_a_mail),
    ("statements_agree_with_the_ledger", tamper_with_the_ledger),
    ("messages_follow_their_reader", move_a_contact_to_mars),
    ("details_are_asked_after", ask_nobody_for_two_years),
    ("details_are_asked_after", lose_a_confirmation),
    ("only_catalogued_messages", queue_an_advertisement),
    ("all_data_are_mapped", make_a_table_that_nobody_mapped),
    ("disclosures_were_approved", disclose_without_approval),
    ("records_are_purged", forget_a_step),
    ("records_are_purged", lose_a_certificate),
    ("sessions_end_after_a_day", keep_a_session_for_two_days),
]


def verdict(database: Database, settings: Settings, measure: str) -> Verdict:
    with database.connection() as connection:
        return MEASURED[measure](Installation(settings, connection)).verdict


@pytest.mark.parametrize(("measure", "broken_by"), BREAKS)
def test_a_broken_promise_is_seen(
    sound: Database, settings: Settings, measure: str, broken_by: Callable[[Connection], None]
) -> None:
    assert verdict(sound, settings, measure) is Verdict.KEPT
    with sound.connection() as connection:
        broken_by(connection)
    assert verdict(sound, settings, measure) is Verdict.BROKEN


def test_a_message_that_carries_more_than_ids_is_seen(sound: Database, settings: Settings) -> None:
    broker = redis.Redis.from_url(settings.broker_url)
    broker.flushall()
    app = Celery(broker=settings.broker_url)
    app.send_task("statements.send", kwargs={"account": "acme", "dedupe_key": "1"})
    app.send_task("statements.render")
    assert verdict(sound, settings, "messages_carry_ids_only") is Verdict.KEPT
    app.send_task("statements.send", kwargs={"account": "acme", "name": "Luís Gonçalves"})
    assert verdict(sound, settings, "messages_carry_ids_only") is Verdict.BROKEN
    broker.flushall()


def test_a_link_in_the_clear_is_seen(sound: Database, settings: Settings) -> None:
    """Settings refuse it before; this asks the connection itself, which here has no TLS."""
    assert verdict(sound, settings, "links_are_encrypted") is Verdict.UNKNOWN
    production = msgspec.structs.replace(
        settings,
        mode=Mode.PRODUCTION,
        database_url=settings.database_url + "?sslmode=verify-full",
        broker_url="rediss://broker.example",
        s3_endpoint="https://objects.example",
        mail_url="smtps://mail.example",
    )
    assert verdict(sound, production, "links_are_encrypted") is Verdict.BROKEN


def test_a_template_that_loads_or_links_is_seen(
    sound: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for measure, planted in [
        ("messages_load_nothing", '<p style="background: url(//x)">x</p>'),
        ("messages_load_nothing", "<p>"),
        ("foreign_links_are_text", '<a href="{{ recipient_name }}">x</a>'),
    ]:
        assert verdict(sound, settings, measure) is Verdict.KEPT
        with monkeypatch.context() as patch:
            plant(planted, patch)
            mail._looks.cache_clear()
            assert verdict(sound, settings, measure) is Verdict.BROKEN
        mail._looks.cache_clear()


@pytest.mark.parametrize(
    "planted",
    [
        "<script>1</script>",
        '<iframe src="https://x.example/y"></iframe>',
        '<link rel="icon" href="https://x.example/y">',
        '<meta http-equiv="set-cookie">',
        '<p onclick="1"></p>',
    ],
)
def test_a_page_that_could_set_a_cookie_is_seen(
    sound: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    assert verdict(sound, settings, "pages_set_no_cookie") is Verdict.KEPT
    original = download_page._render
    monkeypatch.setattr(
        download_page, "_render", lambda *given: original(*given).replace("</body>", f"{planted}</body>")
    )
    assert verdict(sound, settings, "pages_set_no_cookie") is Verdict.BROKEN


def test_an_answer_that_sets_a_cookie_is_seen(
    sound: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {**pages.headers(), "Set-Cookie": "who=acme"}
    monkeypatch.setattr(pages, "headers", lambda: sent)
    assert verdict(sound, settings, "pages_set_no_cookie") is Verdict.BROKEN


def plant(planted: str, patch: pytest.MonkeyPatch) -> None:
    """Put markup into a template that everything else is taken from."""
    whole = rendering.environment()
    path = "messages/contract-ending/body.html"
    source = whole.loader.get_source(whole, path)[0]
    source = source.replace("{% block content %}", "{% block content %}" + planted)
    tampered = whole.overlay(cache_size=400)
    patch.setattr(tampered, "loader", jinja2.ChoiceLoader([jinja2.DictLoader({path: source}), whole.loader]))
    patch.setattr(rendering, "environment", lambda: tampered)


def test_who_has_not_been_purged_yet_is_told(sound: Database, settings: Settings) -> None:
    with sound.connection() as connection:
        end_a_contract(connection)
        evidence = MEASURED["records_are_purged"](Installation(settings, connection))
    assert evidence.verdict is Verdict.KEPT
    assert evidence.figure == "0 customers who left are erased and certified; not yet: 1 requested"


def test_a_processor_that_is_not_listed_is_seen(sound: Database, settings: Settings, tmp_path: Path) -> None:
    assert verdict(sound, settings, "processors_are_listed") is Verdict.KEPT
    collecting = msgspec.structs.replace(settings, stripe_secret_key="sk_test_1")
    assert verdict(sound, collecting, "processors_are_listed") is Verdict.BROKEN
    listed = tmp_path / "datamap.toml"
    listed.write_text('[[processor]]\nname = "Stripe"\nreceives = "names and cards"\npurge = "delete the customer"\n')
    told = msgspec.structs.replace(collecting, datamap=str(listed))
    assert verdict(sound, told, "processors_are_listed") is Verdict.KEPT
    listed.write_text("[[processor]]\n")
    assert verdict(sound, told, "processors_are_listed") is Verdict.BROKEN


#: Broken by tests of their own, here, in test_{security,payment_events,reminders,outbound}.py.
OTHERWISE = {
    "connections_are_configured",
    "pages_set_no_cookie",
    "processors_are_listed",
    "messages_load_nothing",
    "foreign_links_are_text",
    "messages_carry_ids_only",
    "links_are_encrypted",
    "vulnerabilities_are_patched",
    "payments_are_collected_once",
    "reminders_leave_once_and_in_time",
}


def test_evidence_of_mail_does_not_read_all_mail(sound: Database, settings: Settings) -> None:
    """There are millions of messages that are done; of these an index is asked, or none."""
    asked: list[str] = []
    with sound.connection() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        # The values are patiences, or none.
        listen(connection, "before_cursor_execute", lambda *call: asked.append(_written_out(*call[2:4])))
        for measure in (statements_are_sent, only_catalogued_messages):
            measure(Installation(settings, connection))
        for sql in asked.copy():
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {sql}").scalars())
            assert "Seq Scan on email_messages" not in plan, plan
    assert len(asked) == 2 + 2


def _written_out(statement: str, values: Mapping[str, Any]) -> str:
    return statement % {name: f"interval '{value}'" for name, value in values.items()}


def test_every_measured_promise_was_broken_here() -> None:
    assert set(MEASURED) == {measure for measure, _ in BREAKS} | OTHERWISE


def test_a_mail_to_a_contact_is_not_undelivered_while_it_waits_its_turn(sound: Database, settings: Settings) -> None:
    with sound.transaction() as session:
        queue_one_more(session)
    assert verdict(sound, settings, "statements_are_sent") is Verdict.KEPT


def queue_one_more(session: Session) -> None:
    account = session.scalars(select(Account)).one()
    contact = session.scalars(select(Contact)).one()
    session.add(
        EmailMessage(
            account_id=account.id,
            contact_id=contact.id,
            message="statement-ready",
            to_address=contact.email,
            context={},
            dedupe_key="another",
            message_id="another@tenure.example",
            created_at=datetime.now(UTC),
        )
    )
