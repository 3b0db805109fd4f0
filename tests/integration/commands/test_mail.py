"""An operator's part in mail: notices by hand, what did not arrive, addresses that are not written to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, text

from models.base.unit_of_work import Database
from models.customers.account import Account
from models.mail.delivery_event import DeliveryEvent, DeliveryKind
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.mailing import queued, row
from tests.support.rows.terminating import a_termination

pytestmark = pytest.mark.clock("2026-11-22 12:00")

NOTICE = ("--set", "kind=maintenance", "--set", "topic=Database upgrade", "--set", "starts_at=2026-11-25T22:00:00Z")


@pytest.fixture
def jane(database: Database) -> str:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        a_contact(session, account, email="joe@customer.example")
        return a_contact(session, account, email="jane@customer.example").email


def test_a_notice_goes_once_to_whom_it_is_for(
    database: Database, ports: Ports, inbox: Path, tenure: Run, jane: str
) -> None:
    details = ("--set", "details=First.", "--set", "details=Second.")
    told = tenure("mail", "send", "service-notice", "--to", jane, *NOTICE, *details)
    assert (told.returncode, told.stdout, told.stderr) == (0, "1 queued.\n", "")
    again = tenure("mail", "send", "service-notice", "--to", jane, "--account", "acme", *NOTICE, *details)
    assert again.stdout == "1 queued. 1 had the same words already, and get them once.\n"
    assert drain(SEND, ports) == {"sent": 2}
    assert len(list(inbox.glob("*.eml"))) == 2
    with database.connection() as connection:
        context = connection.execute(text("SELECT context FROM tenure.email_messages LIMIT 1")).scalar_one()
    assert (context["topic"], context["details"]) == ("Database upgrade", ["First.", "Second."])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("buy-now", "--to", "jane@customer.example"), "The catalogue has no message 'buy-now'"),
        (("statement-ready", "--to", "jane@customer.example"), "is sent by the platform alone"),
        (("service-notice", "--to", "jane@customer.example"), "missing required field"),
        (("service-notice", "--to", "jane@customer.example", "--set", "colour=red"), "'colour' is no field"),
        (("service-notice", "--to", "jane@customer.example", "--set", "kind=sale"), "Invalid enum value"),
        (("service-notice", *NOTICE), "say to whom"),
        (("service-notice", "--to", "nobody@customer.example", *NOTICE), "no active account has the contact"),
        (("service-notice", "--account", "nobody", *NOTICE), "no active account has the account 'nobody'"),
    ],
)
@pytest.mark.usefixtures("jane")
def test_what_cannot_be_sent_is_said_in_a_sentence(
    database: Database, tenure: Run, arguments: tuple[str, ...], said: str
) -> None:
    told = tenure("mail", "send", *arguments)
    assert told.returncode == 2
    assert said in told.stderr
    assert "Traceback" not in told.stderr
    with database.connection() as connection:
        assert connection.execute(text("SELECT count(*) FROM tenure.email_messages")).scalar_one() == 0


def test_what_did_not_arrive_is_listed_with_its_reason(database: Database, ports: Ports, tenure: Run) -> None:
    assert tenure("mail", "failed").returncode == 0
    (wrong,) = queued(database, ports, email="no address")
    (bounced, silent, fine, young) = queued(database, ports, 4)
    missing = {"key": "missing/x", "filename": "x.pdf", "content_type": "application/pdf"}
    (gone,) = queued(database, ports, attachments=[missing])
    assert tenure("mail", "suppressions", "--add", "joe@customer.example", "--why", "He asked.").returncode == 0
    (suppressed,) = queued(database, ports, email="Joe@customer.example")
    drain(SEND, ports)
    at = datetime(2026, 10, 1, tzinfo=UTC)
    with database.transaction() as session:
        session.add(
            DeliveryEvent(email_message_id=bounced, kind=DeliveryKind.BOUNCED, occurred_at=at, detail="General")
        )
        session.add(DeliveryEvent(email_message_id=fine, kind=DeliveryKind.DELIVERED, occurred_at=at))
        session.execute(
            text("UPDATE tenure.email_messages SET finished_at = now() - interval '73 hours' WHERE id = ANY (:old)"),
            {"old": [silent, fine]},
        )
    told = tenure("mail", "failed", "--json")
    assert told.returncode == 1
    found = {each["id"]: (each["state"], each["why"]) for each in json.loads(told.stdout)}
    assert found == {
        str(wrong): ("failed", row(database, wrong).last_error),
        str(gone): ("failed", "The account has no key: nothing was stored for it yet."),
        str(suppressed): ("suppressed", row(database, suppressed).last_error),
        str(bounced): ("bounced", "The provider says so: General"),
        str(silent): ("silent", "It was accepted, and nothing was heard of it since."),
    }
    assert str(young) not in found
    said = tenure("mail", "failed").stdout
    assert "@customer" not in said
    assert said.count("account-set-up") == 5


def test_a_message_about_a_termination_that_did_not_arrive_is_listed(
    database: Database, tenure: Run, jane: str
) -> None:
    with database.transaction() as session:
        acme = session.scalars(select(Account).where(Account.ref == "acme")).one()
        termination = a_termination(session, acme.id)
        session.execute(
            text("""
                INSERT INTO tenure.email_messages
                       (termination_id, recipient, to_address, message, context, dedupe_key, message_id, state,
                        last_error, finished_at)
                VALUES (:id, '{"name": "Jane", "language": "en", "time_zone": "UTC"}', :address, 'export-ready', '{}',
                        'export-ready', 'export-ready@tenure.example', 'failed', 'The server refused the address.',
                        now())"""),
            {"id": termination.id, "address": jane},
        )
    (told,) = json.loads(tenure("mail", "failed", "--json").stdout)
    assert (told["message"], told["account"], told["why"]) == (
        "export-ready",
        "acme",
        "The server refused the address.",
    )


def test_suppressions_are_listed_added_and_lifted_with_a_reason(tenure: Run, jane: str) -> None:
    assert tenure("mail", "suppressions").stdout == "No address is suppressed.\n"
    assert tenure("mail", "suppressions", "--add", jane).returncode == 2
    mistaken = tenure("mail", "suppressions", "--add", "jane@", "--why", "She asked.")
    assert mistaken.returncode == 2
    assert "There must be something after the @-sign." in mistaken.stderr
    assert tenure("mail", "suppressions", "--add", jane.upper(), "--why", "She asked.").returncode == 0
    assert "already" in tenure("mail", "suppressions", "--add", jane, "--why", "She asked.").stdout
    (listed,) = json.loads(tenure("mail", "suppressions", "--json").stdout)
    assert (listed["address"], listed["reason"], listed["detail"], listed["account"]) == (
        jane,
        "operator",
        "She asked.",
        "acme",
    )
    assert jane in tenure("mail", "suppressions").stdout
    assert tenure("mail", "suppressions", "--lift", jane, "--why", "She called.").returncode == 0
    assert tenure("mail", "suppressions", "--lift", jane, "--why", "She called.").returncode == 2
    assert tenure("mail", "suppressions", "--add", jane, "--lift", jane).returncode == 2
