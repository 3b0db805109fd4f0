"""What providers tell of messages: any order, repeated, of the unknown; and what follows from it (E10, E11)."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from email_templates.catalogue.accounts import DetailsCheck
from models.base.unit_of_work import Database
from models.mail.email_message import EmailMessage
from models.work import row as work
from tasks.engine.drain import drain
from tasks.mail import upkeep
from tasks.mail.queue import Queued, queue, queue_for_contacts
from tasks.mail.send import SEND, SEND_URGENT
from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.mailing import due_now, notice, queued, row, set_up
from tests.support.servers.mail_server import DROP, MailServer

AT = "2020-10-01T12:00:{:02}.000Z"
ADDRESS = "jane@customer.example"


def ses_event(kind: str, message: UUID | str, second: int = 0, **details: Any) -> dict[str, Any]:
    """As Amazon SES publishes it, with what we do not want to keep."""
    at = AT.format(second)
    mail = {
        "timestamp": AT.format(0),
        "messageId": "0107-0000-000000",
        "source": "billing@tenure.example",
        "destination": [ADDRESS],
        "headers": [{"name": "Subject", "value": "Your statement"}],
        "tags": {"ses:configuration-set": ["tenure"], "tenure-message": [str(message)]},
    }
    part = {"Bounce": "bounce", "Complaint": "complaint", "Delivery": "delivery", "DeliveryDelay": "deliveryDelay"}
    told: dict[str, Any] = {"eventType": kind, "mail": mail}
    if kind in part:
        told[part[kind]] = {"timestamp": at, "bouncedRecipients": [{"emailAddress": ADDRESS}], **details}
    return told


def bounce(message: UUID | str, second: int = 5, kind: str = "Permanent") -> dict[str, Any]:
    return ses_event("Bounce", message, second, bounceType=kind, bounceSubType="General")


def tell(database: Database, event: dict[str, Any]) -> None:
    with database.connection() as connection:
        connection.execute(text("SELECT tenure.record_mail_event(:event)"), {"event": json.dumps(event)})


def events(database: Database) -> list[tuple[str, str | None]]:
    with database.connection() as connection:
        rows = connection.execute(text("SELECT kind, detail FROM tenure.delivery_events ORDER BY occurred_at, kind"))
        return [(each.kind, each.detail) for each in rows]


def suppressed(database: Database) -> dict[str, str]:
    with database.connection() as connection:
        rows = connection.execute(text("SELECT address, reason FROM tenure.suppressions WHERE lifted_at IS NULL"))
        return {each.address: each.reason for each in rows}


@pytest.fixture
def sent(database: Database, ports: Ports) -> UUID:
    (key,) = queued(database, ports, email="Jane@Customer.example")
    assert drain(SEND, ports) == {"sent": 1}
    return key


def test_an_event_in_the_envelope_of_sns_or_bare_is_one_row_and_holds_nothing_personal(
    database: Database, ports: Ports, sent: UUID
) -> None:
    event = bounce(sent)
    for notification in (event, {"Type": "Notification", "Message": json.dumps(event)}, event):
        tell(database, notification)
        drain(HANDLE, ports)
    assert events(database) == [("bounced", "Permanent General")]
    with database.connection() as connection:
        (request,) = connection.execute(text("SELECT args FROM tenure.job_requests")).scalars()
    assert request == {
        "message": str(sent),
        "event": "bounced",
        "occurred_at": AT.format(5),
        "detail": "Permanent General",
    }


TELLING = [
    lambda key: ses_event("Send", key),
    lambda key: ses_event("Delivery", key, 3),
    lambda key: ses_event("DeliveryDelay", key, 2, delayType="MailboxFull"),
    lambda key: ses_event("Complaint", key, 9, complaintFeedbackType="abuse"),
    bounce,
]


def test_events_in_any_order_end_the_same(database: Database, ports: Ports) -> None:
    orders = list(itertools.permutations(TELLING))[::17]
    keys = [queued(database, ports, email=f"c{number}@customer.example")[0] for number in range(len(orders))]
    assert drain(SEND, ports) == {"sent": len(orders)}
    for order, key in zip(orders, keys, strict=True):
        for event in order:
            tell(database, event(key))
    assert drain(HANDLE, ports) == {"handled": 5 * len(orders)}
    assert len(events(database)) == 5 * len(orders)
    assert set(suppressed(database)) == {f"c{number}@customer.example" for number in range(len(orders))}
    assert {row(database, key).state for key in keys} == {"done"}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (bounce, "bounce"),
        (lambda key: ses_event("Complaint", key), "complaint"),
        (lambda key: bounce(key, kind="Transient"), None),
        (lambda key: ses_event("DeliveryDelay", key), None),
        (lambda key: ses_event("Reject", key), None),
    ],
)
def test_a_hard_bounce_or_a_complaint_stops_what_waits_on_every_stream(
    database: Database, ports: Ports, sent: UUID, event: Any, reason: str | None
) -> None:
    (bulk,) = queued(database, ports, email=ADDRESS)
    (urgent,) = queued(database, ports, context=notice(), email=ADDRESS)
    (other,) = queued(database, ports)
    tell(database, event(sent))
    assert drain(HANDLE, ports) == {"handled": 1}
    assert suppressed(database) == ({ADDRESS: reason} if reason else {})
    expected = "suppressed" if reason else "pending"
    assert [row(database, key).state for key in (bulk, urgent)] == [expected, expected]
    assert row(database, other).state == "pending"


def test_another_contact_of_the_account_is_asked_once_a_year_what_became_of_an_address(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        account = an_account(session)
        for name in ("jane", "joe", "jim"):
            a_contact(session, account, email=f"{name}@customer.example", receives_statements=name == "jim")
    for name in ("jane", "joe"):
        with database.transaction() as session:
            queue_for_contacts(session, account.id, set_up(), f"reason-{name}", ports)
        drain(SEND, ports)
        with database.connection() as connection:
            key = connection.execute(
                text("SELECT id FROM tenure.email_messages WHERE to_address = :to AND state = 'done' LIMIT 1"),
                {"to": f"{name}@customer.example"},
            ).scalar_one()
        tell(database, bounce(key))
        drain(HANDLE, ports)
    with database.connection() as connection:
        asked = connection.execute(
            text("""
                SELECT to_address, context ->> 'reason' AS reason, context ->> 'unreachable' AS unreachable
                  FROM tenure.email_messages WHERE message = 'details-check'""")
        ).all()
    # Jim was asked of Jane. Of Joe nobody is left to be asked: Jane is unreachable, and Jim was asked this year.
    assert asked == [("jim@customer.example", "bounced", "jane@customer.example")]


def test_an_event_of_a_message_that_nobody_knows_fails_with_its_reason(database: Database, ports: Ports) -> None:
    for name in (str(uuid4()), "nobody@tenure.example"):
        tell(database, bounce(name))
    assert drain(HANDLE, ports) == {"handled": 0, "failed": 2}
    with database.connection() as connection:
        (why,) = connection.execute(text("SELECT DISTINCT last_error FROM tenure.job_requests")).scalars()
    assert why.startswith("No message is known by the name that the event gives")
    assert suppressed(database) == {}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"Type": "SubscriptionConfirmation"}, 'a "SubscriptionConfirmation" of SNS is no event'),
        ({"Type": "Notification", "Message": "not json"}, "is not JSON"),
        ({"Type": "Notification"}, "is not JSON"),
        ({"eventType": "Open", "mail": {}}, 'an event of the kind "Open" is not known'),
        ({}, 'the kind "NULL" is not known'),
        ([], 'the kind "NULL" is not known'),
        ("Bounce", 'the kind "NULL" is not known'),
        ({"eventType": "Bounce", "mail": {"messageId": "x"}}, "does not say which message"),
        ({"eventType": "Send", "mail": {"messageId": "x", "timestamp": "yesterday-ish"}}, "does not say which message"),
        ({"eventType": "Send", "mail": {"timestamp": "2020-10-01", "headers": 5}}, "does not say which message"),
    ],
)
def test_what_is_no_event_is_refused_at_once_in_a_sentence(database: Database, event: Any, said: str) -> None:
    with pytest.raises(DBAPIError) as refused:
        tell(database, event)
    assert said in str(refused.value.orig)


@pytest.mark.parametrize("by", ["tag", "Message-ID", "provider's name"])
def test_a_message_is_found_by_any_of_its_names(database: Database, ports: Ports, sent: UUID, by: str) -> None:
    event = bounce(sent)
    if by != "tag":
        del event["mail"]["tags"]["tenure-message"]
    if by == "Message-ID":
        event["mail"]["headers"].append({"name": "Message-Id", "value": f"<{row(database, sent).message_id}>"})
    if by == "provider's name":
        event["mail"]["messageId"] = row(database, sent).accepted_as
    tell(database, event)
    assert drain(HANDLE, ports) == {"handled": 1}
    assert len(events(database)) == 1


def test_an_unknown_message_is_settled_by_an_event(database: Database, server_ports: Ports, server: MailServer) -> None:
    server.script["DOT"] = [DROP]
    (key,) = queued(database, server_ports)
    drain(SEND, server_ports)
    assert row(database, key).state == "unknown"
    tell(database, ses_event("Delivery", key, 1))
    drain(HANDLE, server_ports)
    settled = row(database, key)
    assert (settled.state, settled.last_error) == ("done", None)
    assert set(server.copies().values()) == {1}


def test_a_kind_that_had_rather_come_twice_is_sent_again_once_and_no_other(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    server.script["DOT"] = [DROP, DROP, DROP]
    (resend_if_unknown,) = queued(database, server_ports, context=notice())
    (not_so,) = queued(database, server_ports)
    drain(SEND_URGENT, server_ports)
    drain(SEND, server_ports)
    # A provider may still tell of it.
    assert upkeep.settle(server_ports) == {"settled": 0, "again": 0}
    at_once = timedelta(0)
    assert upkeep.settle(server_ports, patience=at_once) == {"settled": 0, "again": 1}
    assert drain(SEND_URGENT, server_ports) == {"sent": 0, "settled": 1}
    assert upkeep.settle(server_ports, patience=at_once) == {"settled": 0, "again": 0}
    assert [row(database, key).state for key in (resend_if_unknown, not_so)] == ["unknown", "unknown"]
    # The same message: the same Message-ID, byte for byte.
    assert sorted(server.copies().values()) == [1, 2]
    assert len(set(server.contents)) == 2


def test_an_event_that_comes_before_the_second_copy_keeps_it_back(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    server.script["DOT"] = [DROP]
    (key,) = queued(database, server_ports, context=notice())
    drain(SEND_URGENT, server_ports)
    upkeep.settle(server_ports, patience=timedelta(0))
    assert row(database, key).state == "pending"
    tell(database, ses_event("Send", key))
    drain(HANDLE, server_ports)
    due_now(database)
    assert drain(SEND_URGENT, server_ports) == {"sent": 0}
    assert row(database, key).state == "done"
    assert len(server.contents) == 1


def test_an_event_that_came_before_its_message_was_lost_settles_it_by_the_next_tick(
    database: Database, server_ports: Ports
) -> None:
    (key,) = queued(database, server_ports)
    with database.connection() as connection:
        work.claim(connection, EmailMessage, 1, worker="elsewhere|1|0", lease=timedelta(seconds=0))
        connection.execute(text("UPDATE tenure.email_messages SET committing_at = now()"))
    tell(database, ses_event("Send", key))
    drain(HANDLE, server_ports)
    with database.connection() as connection:
        assert work.rescue(connection, EmailMessage) == 1
    assert row(database, key).state == "unknown"
    assert upkeep.settle(server_ports) == {"settled": 1, "again": 0}
    assert row(database, key).state == "done"


def test_data_are_forgotten_after_their_days_and_hashes_stay(database: Database, ports: Ports, sent: UUID) -> None:
    """No personal data of an ended message is kept (E12)."""
    (young,) = queued(database, ports)
    (failed,) = queued(database, ports, email="no address")
    drain(SEND, ports)
    before = row(database, sent)
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.email_messages SET finished_at = now() - interval '31 days' WHERE id = ANY (:old)"),
            {"old": [sent, failed]},
        )
    assert upkeep.forget(ports, batch=1) == 2
    assert upkeep.forget(ports) == 0
    forgotten = row(database, sent)
    assert (forgotten.context, forgotten.state) == ({}, "done")
    assert forgotten.content_sha256 == before.content_sha256
    assert forgotten.to_address == f"sha256:{sha256(ADDRESS.encode()).hexdigest()}"
    assert row(database, young).context
    # A person may retry it, and is told why that cannot be.
    with database.connection() as connection:
        work.retry(connection, EmailMessage, [failed])
    assert drain(SEND, ports) == {"sent": 0, "failed": 1}
    assert str(row(database, failed).last_error).startswith("The data of this message were deleted")
    # What is told of it now is kept, and there is no address left to suppress.
    tell(database, bounce(sent))
    assert drain(HANDLE, ports) == {"handled": 1}
    assert suppressed(database) == {}


def test_who_unsubscribes_gets_no_more_of_what_one_can_do_without(database: Database, ports: Ports) -> None:
    question = DetailsCheck.examples()[""]
    (key,) = queued(database, ports, context=question)
    drain(SEND, ports)
    with database.connection() as connection:
        connection.execute(
            text("SELECT tenure.request('emails.unsubscribe', jsonb_build_object('message', CAST(:id AS text)))"),
            {"id": str(key)},
        )
    assert drain(HANDLE, ports) == {"handled": 1}
    with database.transaction() as session:
        contact = session.get_one(EmailMessage, key)
        for context in (question, set_up()):
            queue(
                session,
                [Queued(contact.account_id, contact.contact_id, contact.to_address, context, f"again:{context.name}")],
                ports,
            )
    assert drain(SEND, ports) == {"sent": 1, "settled": 1}
    with database.connection() as connection:
        (why,) = connection.execute(
            text("SELECT last_error FROM tenure.email_messages WHERE state = 'cancelled'")
        ).scalars()
    assert why.startswith("The recipient unsubscribed")
