"""E-mail from the queued row to the inbox, and to mail servers that misbehave at every step (E2, E3, E8, E10, E11)."""

from __future__ import annotations

import email
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage as MIMEMessage
from email.policy import SMTP
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from jinja2 import DictLoader, Environment, StrictUndefined
from sqlalchemy import select, text

from email_templates import rendering
from email_templates.catalogue.accounts import AccountSetUp
from email_templates.catalogue.security import SecurityEvent, SecurityNotice
from email_templates.catalogue.service import ServiceNotice, ServiceNoticeKind
from models import Contact, EmailMessage, work
from models.unit_of_work import Database
from tasks import emails
from tasks.drain import drain
from tasks.emails import SEND, SEND_URGENT, Queued, ToSend, compose, recipient
from tasks.failures import Permanent
from tasks.ports import Letterhead, Ports
from tests.company import a_contact, an_account
from workers.adapters.smtp import SMTPMailer

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)


def notice(**values: Any) -> SecurityNotice:
    return SecurityNotice(
        **{"event": SecurityEvent.PASSWORD_CHANGED, "account_name": "Köhler & Söhne", "happened_at": NOW, **values}
    )


def set_up(**values: Any) -> AccountSetUp:
    return AccountSetUp(
        **{
            "account_name": "Köhler & Söhne",
            "account_ref": "C-1",
            "set_up_at": NOW,
            "currency": "EUR",
            "billing_day": 1,
            **values,
        }
    )


def queued(database: Database, ports: Ports, count: int = 1, *, context: Any = None, **values: Any) -> list[UUID]:
    """Mails to one contact, the values of which may be given as `contact`; in the order of their making."""
    attachments = values.pop("attachments", ())
    with database.transaction() as session:
        account = an_account(session)
        contact = a_contact(session, account, **values)
        keys = [str(uuid4()) for _ in range(count)]
        emails.queue(
            session,
            [Queued(account.id, contact.id, contact.email, context or set_up(), key, attachments) for key in keys],
            ports,
        )
        ids = {
            row.dedupe_key: row.id
            for row in session.scalars(select(EmailMessage).where(EmailMessage.dedupe_key.in_(keys)))
        }
    return [ids[key] for key in keys]


def row(database: Database, key: UUID) -> EmailMessage:
    with database.transaction() as session:
        return session.get_one(EmailMessage, key)


def due_now(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.email_messages SET due_at = now() - interval '1 s' WHERE state = 'pending'")
        )


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
    ports.objects.put("statements/x.pdf", body, content_type="application/pdf")
    attachment = {"key": "statements/x.pdf", "filename": "Auszug März.pdf", "content_type": "application/pdf"}
    (key,) = queued(database, ports, name="Luís Gonçalves", email="luis@customer.example", attachments=[attachment])
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
        emails.queue_for_contacts(session, account.id, set_up(), "reason", ports)
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
            emails.queue_for_contacts(session, account.id, set_up(), "reason", ports)
        drain(SEND, ports)
    assert len(received(inbox)) == 2
    with database.transaction() as session:
        emails.queue_for_contacts(session, account.id, set_up(), "another reason", ports)
    assert drain(SEND, ports) == {"sent": 2}


def test_urgent_mail_and_bulk_mail_are_sent_by_jobs_of_their_own(database: Database, ports: Ports, inbox: Path) -> None:
    bulk, urgent = queued(database, ports, 2), queued(database, ports, context=notice())
    assert drain(SEND_URGENT, ports) == {"sent": 1}
    assert [row(database, key).state for key in bulk + urgent] == ["pending", "pending", "done"]
    assert drain(SEND, ports) == {"sent": 2}
    assert len(received(inbox)) == 3


def test_queuing_nothing_is_no_error(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        emails.queue(session, [], ports)


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
    queued(database, ports, name=name.replace("\0", ""), email="a@customer.example")
    assert drain(SEND, ports) == {"sent": 1}
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


@pytest.mark.parametrize("address", ["info@köhler.example", "josé@customer.example", "用户@例子.example"])
def test_an_address_outside_ascii_is_written_to(database: Database, ports: Ports, inbox: Path, address: str) -> None:
    queued(database, ports, email=address)
    assert drain(SEND, ports) == {"sent": 1}
    (envelope,) = envelopes(inbox)
    assert envelope["rcpt_tos"] == [address]
    (file,) = inbox.glob("*.eml")
    assert f"<{address}>".encode() in file.read_bytes()


NO_ADDRESSES = [
    "",
    "nobody",
    "@customer.example",
    "a@",
    "<a@customer.example>",
    "a@customer.example>",
    "a@customer.example\r\nRCPT TO:<victim@evil.example>",
    "a@customer.example, victim@evil.example",
    "a@customer.example,victim@evil.example",
    "a @customer.example",
    "a(b)@customer.example",
    "a@b@c",
    "a\u2028@customer.example",
    "é<a@customer.example>",
    "a" * 300 + "@customer.example",
]


def test_what_is_no_address_fails_in_a_sentence_and_reaches_no_server(
    database: Database, ports: Ports, inbox: Path
) -> None:
    wrong = [queued(database, ports, email=address)[0] for address in NO_ADDRESSES]
    (right,) = queued(database, ports)
    assert drain(SEND, ports) == {"sent": 1, "failed": len(wrong)}
    for address, key in zip(NO_ADDRESSES, wrong, strict=True):
        failed = row(database, key)
        assert (address, failed.state, failed.attempts, failed.committing_at) == (address, "failed", 1, None)
        assert failed.last_error == "The contact's e-mail address is not one: correct it, then retry."
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
    try:
        to = recipient(name, address)
    except Permanent:
        return
    item = ToSend(an_email(to_address=address), name, "en", "UTC")
    raw = compose(item, ports.letterhead, [])
    message = email.message_from_bytes(raw, policy=SMTP.clone(utf8=True))
    assert to.addr_spec == address
    assert [each.addr_spec for each in message["To"].addresses] == [address]
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
        ToSend(an_email(message=context.name, context=emails.catalogue.write_context(context)), "N", "en", "UTC"),
        ports.letterhead,
        [],
    )
    message = email.message_from_bytes(raw, policy=SMTP)
    assert "Bcc" not in message
    assert len(message["Subject"].splitlines()) == 1
    assert len(message.keys()) == 11


def an_email(**values: Any) -> EmailMessage:
    return EmailMessage(
        **{
            "message": "account-set-up",
            "context": emails.catalogue.write_context(set_up()),
            "to_address": "a@customer.example",
            "message_id": "x@tenure.example",
            "created_at": NOW,
            "attachments": [],
            **values,
        }
    )


def test_long_lines_and_dots_at_line_starts_arrive_as_they_were_sent(
    database: Database, ports: Ports, inbox: Path
) -> None:
    details = (".", "..", ". a dot", "x" * 5_000, "ü" * 3_000, ".hidden " + "word " * 400, "From here", "-- ")
    context = ServiceNotice(kind=ServiceNoticeKind.MAINTENANCE, topic=".", starts_at=NOW, details=details)
    body = b".\r\n..\r\n.\r\nQUIT\r\n" * 50
    ports.objects.put("dots", body, content_type="text/plain")
    attachment = {"key": "dots", "filename": "dots.bin", "content_type": "application/octet-stream"}
    queued(database, ports, context=context, attachments=[attachment], language="en")
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
                f"account-set-up/{part}": "Hello {{ recipient_name }} {{ discount }}"
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
    (key,) = queued(database, ports, attachments=[missing])
    assert drain(SEND, ports) == {"sent": 0, "failed": 1}
    assert row(database, key).last_error == (
        "The object to be read is not in the object store: make it again, then retry."
    )
    assert received(inbox) == []


DROP = "drop"
Reply = str | Callable[[bytes], str]


@dataclass
class MailServer:
    """A mail server that answers each command as its script says, then as a good server does.

    The phases are connect, EHLO, MAIL, RCPT, DATA, and DOT when it has the whole message. An answer may be DROP: it
    hangs up without one.
    """

    script: dict[str, list[Reply]] = field(default_factory=dict)
    #: Every message that was handed over whole, accepted or not; those of them that were accepted.
    contents: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    extensions: Sequence[str] = ("8BITMIME", "SMTPUTF8")
    _lock: Lock = field(default_factory=Lock)
    _open: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> MailServer:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"smtp://127.0.0.1:{self._listening.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._listening, *self._open]:
            _end(each)

    def copies(self) -> Counter[str]:
        """How often each message was handed over, by its Message-ID."""
        return Counter(str(email.message_from_bytes(content, policy=SMTP)["Message-ID"]) for content in self.contents)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                self._open.append(client)
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ConnectionError), client.makefile("rb") as lines:
            self._answer(client, "connect", "220 scripted")
            while line := lines.readline():
                verb = line.split()[0].decode().upper() if line.split() else ""
                self.commands.append(line.decode().strip())
                if verb == "EHLO":
                    good = "\r\n".join(["250-scripted", *(f"250-{each}" for each in self.extensions), "250 HELP"])
                    self._answer(client, verb, good)
                elif verb == "QUIT":
                    self._answer(client, verb, "221 bye")
                    break
                elif verb == "DATA":
                    if self._answer(client, verb, "354 go on").startswith("354"):
                        self._take(client, lines)
                else:
                    self._answer(client, verb, "250 2.0.0 ok")
        _end(client)

    def _take(self, client: socket.socket, lines: Any) -> None:
        content = b""
        while (line := lines.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            content += line.removeprefix(b".")
        self.contents.append(content)
        if self._answer(client, "DOT", "250 2.0.0 accepted", content).startswith("250"):
            self.accepted.append(content)

    def _answer(self, client: socket.socket, phase: str, good: str, content: bytes = b"") -> str:
        with self._lock:
            planned = self.script.get(phase)
            reply = planned.pop(0) if planned else good
        if callable(reply):
            reply = reply(content)
        if reply == DROP:
            raise ConnectionError
        client.sendall(f"{reply}\r\n".encode())
        return reply


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as made:
        yield made


@pytest.fixture
def server_ports(ports: Ports, server: MailServer) -> Iterator[Ports]:
    mailer = SMTPMailer(server.url, timeout=10)
    yield replace(ports, mailer=mailer)
    mailer.close()


def again(database: Database, ports: Ports, times: int = 3) -> None:
    """Look again, as ticks do, when what rests is due."""
    for _ in range(times):
        due_now(database)
        drain(SEND, ports)


def test_one_connection_is_used_for_many_messages(database: Database, server_ports: Ports, server: MailServer) -> None:
    queued(database, server_ports, 25)
    assert drain(SEND, server_ports) == {"sent": 25}
    assert server.connections == 1
    assert set(server.copies().values()) == {1}
    assert len(server.accepted) == 25


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_refusal_for_good_fails_the_row_at_once_and_only_it(
    database: Database, server_ports: Ports, server: MailServer, phase: str
) -> None:
    server.script[phase] = ["550 5.1.1 <jane@customer.example> is unknown here"]
    first, second = queued(database, server_ports, 2)
    assert drain(SEND, server_ports) == {"sent": 1, "failed": 1}
    failed = row(database, first)
    assert (failed.state, failed.attempts, failed.committing_at) == ("failed", 1, None)
    assert failed.last_error is not None
    assert failed.last_error.endswith("for good (550 5.1.1).")
    assert row(database, second).state == "done"
    # Refusing one message costs no connection.
    assert server.connections == 1
    again(database, server_ports)
    assert len(server.accepted) == 1


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_refusal_for_now_is_tried_again_later_with_the_same_message_id(
    database: Database, server_ports: Ports, server: MailServer, phase: str
) -> None:
    server.script[phase] = ["451 4.3.0 try later", "452 4.2.2 still full"]
    (key,) = queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 0, "retried": 1}
    refused = row(database, key)
    assert (refused.state, refused.attempts, refused.committing_at) == ("pending", 1, None)
    assert str(refused.last_error).endswith("now (451 4.3.0).")
    again(database, server_ports)
    sent = row(database, key)
    assert (sent.state, sent.attempts, len(server.accepted)) == ("done", 3, 1)
    assert set(server.copies()) == {f"<{refused.message_id}>"} == {f"<{sent.message_id}>"}


@pytest.mark.parametrize("reply", ["421 4.3.2 closing", DROP])
@pytest.mark.parametrize("phase", ["connect", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_server_that_breaks_off_before_the_message_costs_no_attempt(
    database: Database, server_ports: Ports, server: MailServer, phase: str, reply: str
) -> None:
    # A server that refuses EHLO is asked with HELO, as smtplib does.
    server.script |= {phase: [reply] * 2, "HELO": [reply] * 2}
    keys = queued(database, server_ports, 2)
    assert drain(SEND, server_ports) == {"sent": 0, "handed_back": 2}
    for key in keys:
        put_off = row(database, key)
        assert (put_off.state, put_off.attempts, put_off.committing_at) == ("pending", 0, None)
        assert str(put_off.last_error).startswith("The mail server ")
    again(database, server_ports)
    assert [row(database, key).state for key in keys] == ["done", "done"]
    assert set(server.copies().values()) == {1}


def test_a_server_that_closes_its_door_after_the_message_refused_it(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    def hang_up(_content: bytes) -> str:
        return "421 4.3.2 shutting down"

    server.script["DOT"] = [hang_up]
    (key,) = queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 0, "handed_back": 1}
    assert (row(database, key).state, row(database, key).committing_at) == ("pending", None)
    again(database, server_ports, 1)
    assert row(database, key).state == "done"
    assert len(server.accepted) == 1
    # The connection that was given up is not used again.
    assert server.connections == 2


@pytest.mark.parametrize(
    "reply", [DROP, "nonsense", "354 go on", "999 what", "x" * 20_000], ids=["silence", "no code", "354", "999", "long"]
)
def test_an_answer_to_the_message_that_is_lost_or_no_answer_leaves_unknown_and_is_never_repeated(
    database: Database, server_ports: Ports, server: MailServer, reply: str
) -> None:
    server.script["DOT"] = [reply]
    first, second = queued(database, server_ports, 2)
    assert drain(SEND, server_ports) == {"sent": 1, "settled": 1}
    unknown = row(database, first)
    assert (unknown.state, unknown.attempts, unknown.lease_until) == ("unknown", 1, None)
    assert unknown.committing_at is not None
    assert unknown.finished_at is not None
    assert str(unknown.last_error).startswith("The mail server's answer to the message was lost (")
    assert row(database, second).state == "done"
    again(database, server_ports)
    with database.connection() as connection:
        assert work.rescue(connection, EmailMessage) == 0
    assert set(server.copies().values()) == {1}
    assert row(database, first).state == "unknown"


def test_a_server_that_is_too_slow_with_its_last_answer_leaves_unknown(
    database: Database, ports: Ports, server: MailServer
) -> None:
    answered: list[float] = []

    def slowly(_content: bytes) -> str:
        # Longer than our patience: whether it has accepted then is its own secret.
        for each in server._open:
            with suppress(OSError):
                each.settimeout(5)
                answered.append(len(each.recv(1, socket.MSG_PEEK)))
        return "250 at last"

    server.script["DOT"] = [slowly]
    (key,) = queued(database, ports)
    assert drain(SEND, replace(ports, mailer=SMTPMailer(server.url, timeout=0.3))) == {"sent": 0, "settled": 1}
    assert row(database, key).state == "unknown"


def test_a_server_that_is_too_slow_before_the_message_costs_no_attempt(database: Database, ports: Ports) -> None:
    # It accepts connections and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mailer = SMTPMailer(f"smtp://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        (key,) = queued(database, ports)
        assert drain(SEND, replace(ports, mailer=mailer)) == {"sent": 0, "handed_back": 1}
    assert (row(database, key).state, row(database, key).attempts) == ("pending", 0)


def test_a_server_that_is_not_there_costs_no_attempt(database: Database, ports: Ports) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"smtp://127.0.0.1:{unused.getsockname()[1]}"
    (key,) = queued(database, ports)
    assert drain(SEND, replace(ports, mailer=SMTPMailer(url))) == {"sent": 0, "handed_back": 1}
    assert row(database, key).last_error == "The mail server cannot be reached (ConnectionRefusedError)."


def test_the_mark_is_committed_before_the_server_has_the_message(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    seen: list[tuple[str, bool]] = []

    def look(_content: bytes) -> str:
        with database.connection() as connection:
            found = connection.execute(text("SELECT state, committing_at FROM tenure.email_messages")).one()
        seen.append((found.state, found.committing_at is not None))
        return "250 ok"

    def look_earlier(_content: bytes) -> str:
        look(b"")
        return "354 go on"

    server.script |= {"DATA": [look_earlier], "DOT": [look]}
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    assert seen == [("running", False), ("running", True)]


@pytest.mark.parametrize("mark", ["before the mark", "after the mark"])
def test_a_worker_that_dies_while_it_sends_leaves_at_most_one_copy(
    database: Database, server_ports: Ports, server: MailServer, mark: str
) -> None:
    (key,) = queued(database, server_ports)
    worker = f"{server_ports.worker.partition('|')[0]}|999999999|1"
    with database.connection() as connection:
        work.claim(connection, EmailMessage, 1, worker=worker, lease=timedelta(seconds=60))
        if mark == "after the mark":
            connection.execute(text("UPDATE tenure.email_messages SET committing_at = now()"))
    counts = drain(SEND, server_ports)
    assert counts["rescued"] == 1
    if mark == "after the mark":
        assert row(database, key).state == "unknown"
        assert server.contents == []
    else:
        assert row(database, key).state == "done"
        assert len(server.contents) == 1


@pytest.mark.parametrize("phase", ["RCPT", "DATA"])
def test_a_zombie_whose_mail_was_taken_over_before_the_dot_does_not_send_it(
    database: Database, server_ports: Ports, server: MailServer, other_worker: Ports, phase: str
) -> None:
    (key,) = queued(database, server_ports)
    good = {"RCPT": "250 ok", "DATA": "354 go on"}[phase]

    def take_over(_content: bytes) -> str:
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.email_messages SET lease_until = now() - interval '1 s'"))
        heir = replace(other_worker, mailer=SMTPMailer(server.url))
        assert drain(SEND, heir) == {"sent": 1, "rescued": 1}
        heir.mailer.close()
        return good

    # The lock of the script is not held while a reply is made: the heir talks to the same server.
    server.script[phase] = [take_over]
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert set(server.copies().values()) == {1}
    assert (row(database, key).state, row(database, key).attempts) == ("done", 2)


def test_a_connection_that_idled_too_long_is_asked_before_a_message_is_entrusted_to_it(
    database: Database, server_ports: Ports, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.adapters.smtp.IDLE", 0.0)
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    # The server has hung up meanwhile.
    for each in server._open:
        _end(each)
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    assert server.connections == 2


def test_an_address_outside_ascii_is_not_sent_to_a_server_that_cannot_take_it(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    server.extensions = ("8BITMIME",)
    (key,) = queued(database, server_ports, email="josé@customer.example")
    assert drain(SEND, server_ports) == {"sent": 0, "failed": 1}
    assert row(database, key).last_error == "The mail server does not take addresses outside ASCII (RFC 6531)."
    assert not [command for command in server.commands if command.startswith("MAIL")]


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
