"""E-mail from the queued row to the inbox, and to mail servers that misbehave at every step (E2, E3, E8, E10, E11)."""

from __future__ import annotations

import email
import json
from collections import Counter
from datetime import UTC, datetime
from email.message import EmailMessage as MIMEMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from jinja2 import DictLoader, Environment, StrictUndefined
from sqlalchemy import select

from email_templates.catalogue.service import ServiceNotice, ServiceNoticeKind
from email_templates.mail import rendering
from models.base.unit_of_work import Database
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.mail import queue, send
from tasks.mail.compose import ToSend, compose, to_write_to
from tasks.mail.send import SEND, SEND_URGENT
from tasks.ports.context import Ports
from tasks.ports.mail import Letterhead
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.mailing import an_email, notice, queued, row, set_up
from tests.support.servers.mail_server import MailServer

pytestmark = pytest.mark.clock("2026-11-22 12:00")

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)


def received(inbox: Path) -> list[MIMEMessage]:
    found = [email.message_from_bytes(file.read_bytes(), policy=SMTP) for file in sorted(inbox.glob("*.eml"))]
    return [message for message in found if isinstance(message, MIMEMessage)]


def envelopes(inbox: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(inbox.glob("*.json"))]


def words(message: MIMEMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_message_arrives_with_its_text_its_html_its_attachment_and_the_headers_of_an_automatic_one(
    database: Database, ports: Ports, inbox: Path
) -> None:
    body = b"%PDF-1.7\r\n.\r\n..\n\x00\xff"
    described = {"filename": "Auszug März.pdf", "content_type": "application/pdf"}
    carrying = [(body, described)]
    (key,) = queued(database, ports, name="Luís Gonçalves", email="luis@customer.example", carrying=carrying)
    assert drain(SEND, ports) == {"sent": 1}

    (message,) = received(inbox)
    (envelope,) = envelopes(inbox)
    sent = row(database, key)
    assert envelope["rcpt_tos"] == ["luis@customer.example"]
    assert envelope["mail_from"] == ports.letterhead.mail_from
    assert message["To"].addresses[0].display_name == "Luís Gonçalves"
    assert message["To"].addresses[0].addr_spec == "luis@customer.example"
    assert message["From"].addresses[0].addr_spec == ports.letterhead.mail_from
    assert message["Reply-To"] == ports.letterhead.reply_to
    assert message["Message-ID"] == f"<{sent.message_id}>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "OOF, AutoReply"
    assert message["Content-Language"] == "de"
    assert "List-Unsubscribe" not in message
    assert message["Date"].datetime == sent.created_at.replace(microsecond=0)
    rendered = rendering.render(
        set_up(),
        language="de",
        time_zone="Europe/Berlin",
        company=ports.letterhead.company,
        recipient_name="Luís Gonçalves",
    )
    assert message["Subject"] == rendered.subject
    assert words(message, "plain").replace("\r\n", "\n") == rendered.text
    assert words(message, "html").replace("\r\n", "\n") == rendered.html
    (attached,) = message.iter_attachments()
    assert (attached.get_content(), attached.get_filename()) == (body, "Auszug März.pdf")
    assert attached.get_content_type() == "application/pdf"
    assert (sent.state, sent.attempts) == ("done", 1)
    assert sent.committing_at is not None
    assert sent.accepted_as is not None
    assert sent.accepted_as.startswith("250 ")


def test_a_state_change_that_rolls_back_queues_no_mail(database: Database, ports: Ports, inbox: Path) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        queue.queue_for_contacts(session, account.id, set_up(), "reason", ports)
        raise ZeroDivisionError
    assert drain(SEND, ports) == {"sent": 0}
    assert received(inbox) == []


def test_the_same_reason_twice_is_one_mail_to_each_contact(database: Database, ports: Ports, inbox: Path) -> None:
    with database.transaction() as session:
        account = an_account(session)
        for _ in range(2):
            a_contact(session, account)
    for _ in range(3):
        with database.transaction() as session:
            queue.queue_for_contacts(session, account.id, set_up(), "reason", ports)
        drain(SEND, ports)
    assert len(received(inbox)) == 2
    with database.transaction() as session:
        queue.queue_for_contacts(session, account.id, set_up(), "another reason", ports)
    assert drain(SEND, ports) == {"sent": 2}


def test_urgent_mail_and_bulk_mail_are_sent_by_jobs_of_their_own(database: Database, ports: Ports, inbox: Path) -> None:
    bulk, urgent = queued(database, ports, 2), queued(database, ports, context=notice())
    assert drain(SEND_URGENT, ports) == {"sent": 1}
    assert [row(database, key).state for key in bulk + urgent] == ["pending", "pending", "done"]
    assert drain(SEND, ports) == {"sent": 2}
    assert len(received(inbox)) == 3


def test_queuing_nothing_is_no_error(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        queue.queue(session, [], ports)


@pytest.mark.parametrize(
    "name",
    [
        "محمد بن راشد",
        "山田 太郎",
        "Zoë \u202eevil",
        'Comma, Name "Q" <x@evil.example>',
        "a\r\nBcc: victim@evil.example",
        "a\nb\x00c\x0bd\u2028e",
        "=?utf-8?q?Bcc=3A?=",
        "x" * 2_000,
        "🦆 " * 200,
        "",
    ],
)
def test_a_hostile_or_foreign_name_arrives_as_a_name_to_one_recipient(
    database: Database, ports: Ports, inbox: Path, name: str
) -> None:
    # PostgreSQL keeps no NUL.
    queued(database, ports, context=notice(), name=name.replace("\0", ""), email="a@customer.example")
    assert drain(SEND_URGENT, ports) == {"sent": 1}
    (message,) = received(inbox)
    (envelope,) = envelopes(inbox)
    assert envelope["rcpt_tos"] == ["a@customer.example"]
    assert [each.addr_spec for each in message["To"].addresses] == ["a@customer.example"]
    assert "Bcc" not in message
    assert message.defects == []
    (file,) = inbox.glob("*.eml")
    assert max(len(line) for line in file.read_bytes().split(b"\r\n")) <= 998
    if "=?" not in name:
        shown = message["To"].addresses[0].display_name.replace(" ", "").removesuffix("…")
        whole = "".join(c for c in name if c.isprintable() and not c.isspace())
        assert shown == whole[: len(shown)]
        assert len(shown) >= min(len(whole), 70)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        # A domain of another script has an ASCII form, which every server takes.
        ("info@köhler.example", "info@xn--khler-jua.example"),
        ("Info+x@KÖHLER.example", "Info+x@xn--khler-jua.example"),
        ("info@faß.example", "info@xn--fa-hia.example"),
        ("josé@customer.example", "josé@customer.example"),
        # Composed, as all do who write it by hand.
        ("jose\u0301@customer.example", "josé@customer.example"),
        ("用户@例子.example", "用户@例子.example"),
    ],
)
def test_an_address_outside_ascii_is_written_to(
    database: Database, ports: Ports, inbox: Path, address: str, written: str
) -> None:
    queued(database, ports, email=address)
    assert drain(SEND, ports) == {"sent": 1}
    (envelope,) = envelopes(inbox)
    assert envelope["rcpt_tos"] == [written]
    (file,) = inbox.glob("*.eml")
    assert f"<{written}>".encode() in file.read_bytes()


def test_an_address_whose_domain_is_of_another_script_needs_no_server_that_knows_it(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    server.extensions = ()
    queued(database, server_ports, email="info@köhler.example")
    assert drain(SEND, server_ports) == {"sent": 1}
    assert "RCPT TO:<info@xn--khler-jua.example>" in server.commands
    assert server.contents[0].isascii()


#: What is no address, and what is said of it.
NO_ADDRESSES = {
    "": "An email address must have an @-sign.",
    "nobody": "An email address must have an @-sign.",
    "@customer.example": "There must be something before the @-sign.",
    "a@": "There must be something after the @-sign.",
    "a@customer": "The part after the @-sign is not valid. It should have a period.",
    "a@mail.localhost": "The part after the @-sign is a special-use or reserved name that cannot be used with email.",
    "a@customer..example": "An email address cannot have two periods in a row.",
    "a@[192.0.2.7]": "A bracketed IP address after the @-sign is not allowed here.",
    '"a b"@customer.example': "Quoting the part before the @-sign is not allowed here.",
    "<a@customer.example>": "A display name and angle brackets around the email address are not permitted here.",
    "a@customer.example>": "The part after the @-sign contains invalid characters.",
    "a@customer.example\r\nRCPT TO:<victim@evil.example>": "The part after the @-sign contains invalid characters.",
    "a@customer.example, victim@evil.example": "The part after the @-sign contains invalid characters.",
    "a@customer.example,victim@evil.example": "The part after the @-sign contains invalid characters.",
    "a @customer.example": "The email address contains invalid characters before the @-sign.",
    "a(b)@customer.example": "The email address contains invalid characters before the @-sign.",
    "a@b@c": "The part after the @-sign contains invalid characters.",
    "a\u2028@customer.example": "The email address contains unsafe characters.",
    "a\u202e@customer.example": "The email address contains unsafe characters.",
    "a@xn--zzzzzz.example": "The part after the @-sign is not valid IDNA.",
    "é<a@customer.example>": "The display name contains invalid characters when not quoted.",
    "a" * 300 + "@customer.example": "The email address is too long.",
}


def test_what_is_no_address_fails_in_a_sentence_and_reaches_no_server(
    database: Database, ports: Ports, inbox: Path
) -> None:
    wrong = [queued(database, ports, email=address)[0] for address in NO_ADDRESSES]
    (right,) = queued(database, ports)
    assert drain(SEND, ports) == {"sent": 1, "failed": len(wrong)}
    for (address, said), key in zip(NO_ADDRESSES.items(), wrong, strict=True):
        failed = row(database, key)
        assert (address, failed.state, failed.attempts, failed.committing_at) == (address, "failed", 1, None)
        assert failed.last_error == (
            f"The contact's e-mail address is not one. {said} Correct the contact and have the message queued anew: "
            "this one keeps its address."
        )
    assert row(database, right).state == "done"
    assert len(received(inbox)) == 1


@profile(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.text(max_size=40),
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                ["a", "b.c", "@", "example", "\r\n", "\n", ",", "<", ">", '"', " ", "(", ")", ";", ":", "é"]
            ),
            max_size=8,
        ).map("".join),
        st.emails(),
    ),
)
@example("\0", "a@b")
@example("\ud800", "\ud800@b")
def test_no_name_and_no_address_can_add_a_header_or_a_recipient(ports: Ports, name: str, address: str) -> None:
    item = ToSend(an_email(to_address=address), name, "en", "UTC")
    try:
        to = to_write_to(address)
    except Permanent:
        with pytest.raises(Permanent):
            compose(item, ports.letterhead, [])
        return
    raw = compose(item, ports.letterhead, [])
    message = email.message_from_bytes(raw, policy=SMTP.clone(utf8=True))
    assert to == to_write_to(to)
    assert [each.addr_spec for each in message["To"].addresses] == [to]
    assert Counter(message.keys()).most_common(1)[0][1] == 1
    assert set(message.keys()) == {
        "From",
        "To",
        "Reply-To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "X-Auto-Response-Suppress",
        "MIME-Version",
        "Content-Type",
        "Content-Language",
    }


@profile(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.text(max_size=300))
@example("a\r\nBcc: victim@evil.example\r\n\r\nnew body")
@example("\u2028Bcc: x\x85y\x0bz")
def test_no_subject_can_add_a_header(ports: Ports, topic: str) -> None:
    context = ServiceNotice(kind=ServiceNoticeKind.MAINTENANCE, topic=topic, starts_at=NOW, details=(topic,))
    # What PostgreSQL keeps as JSON holds neither NUL nor half a surrogate pair.
    if "\0" in topic or any("\ud800" <= character <= "\udfff" for character in topic):
        return
    raw = compose(
        ToSend(an_email(message=context.name, context=send.catalogue.write_context(context)), "N", "en", "UTC"),
        ports.letterhead,
        [],
    )
    message = email.message_from_bytes(raw, policy=SMTP)
    assert "Bcc" not in message
    assert len(message["Subject"].splitlines()) == 1
    assert len(message.keys()) == len(set(message.keys())) == 12


def test_long_lines_and_dots_at_line_starts_arrive_as_they_were_sent(
    database: Database, ports: Ports, inbox: Path
) -> None:
    details = (".", "..", ". a dot", "x" * 5_000, "ü" * 3_000, ".hidden " + "word " * 400, "From here", "-- ")
    context = ServiceNotice(kind=ServiceNoticeKind.MAINTENANCE, topic=".", starts_at=NOW, details=details)
    body = b".\r\n..\r\n.\r\nQUIT\r\n" * 50
    described = {"filename": "dots.bin", "content_type": "application/octet-stream"}
    queued(database, ports, context=context, carrying=[(body, described)], language="en")
    assert drain(SEND, ports) == {"sent": 1}
    (file,) = inbox.glob("*.eml")
    assert max(len(line) for line in file.read_bytes().split(b"\r\n")) <= 998
    (message,) = received(inbox)
    rendered = rendering.render(
        context,
        language="en",
        time_zone="Europe/Berlin",
        company=ports.letterhead.company,
        recipient_name="Luís Gonçalves",
    )
    assert words(message, "plain").replace("\r\n", "\n") == rendered.text
    assert words(message, "html").replace("\r\n", "\n") == rendered.html
    (attached,) = message.iter_attachments()
    assert attached.get_content() == body


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"message": "buy-now"}, "The catalogue has no message 'buy-now'; it has "),
        ({"context": {}}, "The data for the message 'account-set-up' are not what it needs: "),
        ({"context": {"account_name": 5}}, "The data for the message 'account-set-up' are not what it needs: "),
    ],
)
def test_a_mail_that_cannot_be_rendered_fails_in_a_sentence_before_any_server_hears_of_it(
    database: Database, server_ports: Ports, server: MailServer, values: dict[str, Any], reason: str
) -> None:
    (key,) = queued(database, server_ports)
    with database.transaction() as session:
        for name, value in values.items():
            setattr(session.get_one(EmailMessage, key), name, value)
    assert drain(SEND, server_ports) == {"sent": 0, "failed": 1}
    failed = row(database, key)
    assert failed.last_error is not None
    assert failed.last_error.startswith(reason)
    assert "Köhler" not in failed.last_error
    assert server.connections == 0


@pytest.mark.parametrize("language", ["tlh", "", "de_", "zh-Hant-TW"])
def test_a_language_that_is_not_written_is_sent_in_one_that_is(
    database: Database, ports: Ports, inbox: Path, language: str
) -> None:
    queued(database, ports, language=language)
    assert drain(SEND, ports) == {"sent": 1}
    (message,) = received(inbox)
    assert message["Content-Language"] == ("de" if language == "de_" else "en")
    assert ("is set up" in message["Subject"]) == (language != "de_")


def test_an_unknown_time_zone_of_a_contact_fails_in_a_sentence(database: Database, ports: Ports) -> None:
    (key,) = queued(database, ports, time_zone="Europe/Atlantis")
    assert drain(SEND, ports) == {"sent": 0, "failed": 1}
    assert "'Europe/Atlantis' is not a time zone" in str(row(database, key).last_error)


def test_a_template_with_a_variable_that_nobody_defined_fails_in_a_sentence_before_anything_is_sent(
    database: Database, server_ports: Ports, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = queued(database, server_ports)
    broken = Environment(
        loader=DictLoader(
            {
                f"messages/account-set-up/{part}": "Hello {{ recipient_name }} {{ discount }}"
                for part in ("subject.txt", "body.txt", "body.html")
            }
        ),
        undefined=StrictUndefined,
        autoescape=True,
    )
    monkeypatch.setattr(rendering, "environment", lambda: broken)
    assert drain(SEND, server_ports) == {"sent": 0, "failed": 1}
    assert row(database, key).last_error == (
        "A template of \"account-set-up\" shows what nobody gives it: 'discount' is undefined."
    )
    assert server.connections == 0


def test_an_attachment_that_is_gone_fails_in_a_sentence(database: Database, ports: Ports, inbox: Path) -> None:
    missing = {"key": f"missing/{uuid4()}", "filename": "x.pdf", "content_type": "application/pdf"}
    (key,) = queued(database, ports, attachments=[missing], carrying=[(b"%PDF", {**missing, "filename": "y.pdf"})])
    assert drain(SEND, ports) == {"sent": 0, "failed": 1}
    assert row(database, key).last_error == (
        "The object to be read is not in the object store: make it again, then retry."
    )
    assert received(inbox) == []


def test_a_contact_whose_address_was_corrected_after_queuing_is_written_to_as_queued(
    database: Database, ports: Ports, inbox: Path
) -> None:
    queued(database, ports, email="old@customer.example")
    with database.transaction() as session:
        session.scalars(select(Contact)).one().email = "new@customer.example"
    drain(SEND, ports)
    assert envelopes(inbox)[0]["rcpt_tos"] == ["old@customer.example"]


def test_composing_a_message_twice_gives_the_same_headers_and_bodies(letterhead: Letterhead) -> None:
    item = ToSend(an_email(), "Luís", "de", "Europe/Berlin")
    first, second = (email.message_from_bytes(compose(item, letterhead, []), policy=SMTP) for _ in range(2))
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        assert first[name] == second[name]


@pytest.fixture
def letterhead(ports: Ports) -> Letterhead:
    return ports.letterhead
