"""Sending a message once: mail servers that misbehave at every step, and what changes at the last moment (E10, E11)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress as never_mind
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from email_templates.catalogue.accounts import AccountSetUp
from models.base.unit_of_work import Database
from models.customers.account import Account
from models.mail.email_message import EmailMessage
from models.mail.suppression import SuppressionReason, lift, suppress
from models.work import row as work
from models.work.control import is_paused, set_limits, set_paused
from tasks.engine.drain import drain
from tasks.mail.final_check import Withdrawn, _checks, final_check
from tasks.mail.send import ALL_MAIL, SEND, SEND_URGENT
from tasks.ports.context import Ports
from tests.support.rows.mailing import due_now, notice, queued, row
from tests.support.servers.database_proxy import DatabaseProxy
from tests.support.servers.mail_server import DROP, MailServer, end
from tests.support.servers.ses_server import ACCEPT_AND_DROP, SESServer
from workers.adapters.mail.ses import SESMailer
from workers.adapters.mail.smtp import SMTPMailer


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


@pytest.mark.parametrize("phase", ["RCPT", "DATA", "DOT"])
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
    # A server that refuses EHLO is asked with HELO, as smtplib does; one that breaks off later, over a new connection.
    server.script |= {phase: [reply] * (2 if phase in {"connect", "EHLO"} else 4), "HELO": [reply] * 2}
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
            with never_mind(OSError):
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
        # Its lease ran out, and an earlier look has noted that.
        run_out = "lease_until = now() - interval '2 days', due_at = now() - interval '1 day'"
        with database.connection() as connection:
            connection.execute(text(f"UPDATE tenure.email_messages SET {run_out}"))
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
    monkeypatch.setattr("workers.adapters.mail.smtp.IDLE", 0.0)
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    # The server has hung up meanwhile.
    for each in server._open:
        end(each)
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


def suppressed_since(database: Database) -> None:
    with database.connection() as connection:
        (address,) = connection.execute(text("SELECT to_address FROM tenure.email_messages LIMIT 1")).one()
        assert suppress(connection, address.upper(), SuppressionReason.COMPLAINT)
        assert not suppress(connection, address, SuppressionReason.BOUNCE)


def cancelled_since(database: Database) -> None:
    with database.connection() as connection:
        ids = connection.scalars(text("SELECT id FROM tenure.email_messages")).all()
        assert work.cancel(connection, EmailMessage, ids, "Not needed any more.")


@pytest.mark.parametrize(
    "happens",
    [suppressed_since, cancelled_since],
)
@pytest.mark.parametrize("when", ["waiting", "claimed"])
def test_what_was_suppressed_or_cancelled_since_it_was_queued_is_not_sent(
    database: Database,
    server_ports: Ports,
    server: MailServer,
    happens: Callable[[Database], None],
    when: str,
) -> None:
    (key,) = queued(database, server_ports)

    def at_rcpt(_content: bytes) -> str:
        happens(database)
        return "250 ok"

    if when == "waiting":
        happens(database)
        assert drain(SEND, server_ports) == {"sent": 0}
    else:
        server.script["RCPT"] = [at_rcpt]
        assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    ended = row(database, key)
    assert (ended.state, str(ended.last_error)[:20]) == {
        suppressed_since: ("suppressed", "The address is suppr"),
        cancelled_since: ("cancelled", "Not needed any more."),
    }[happens]
    assert (ended.committing_at, ended.lease_until) == (None, None)
    assert ended.finished_at is not None
    assert server.contents == []
    # The connection is as good as before for the next one.
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    assert server.connections == 1


def test_a_suppressed_address_is_not_written_to_on_any_stream_until_that_is_lifted(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    with database.connection() as connection:
        suppress(connection, "Jane@Customer.example", SuppressionReason.OPERATOR)
    (key,) = queued(database, server_ports, email="jane@customer.example")
    (urgent,) = queued(database, server_ports, context=notice(), email="JANE@customer.example")
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert drain(SEND_URGENT, server_ports) == {"sent": 0, "settled": 1}
    assert [row(database, each).state for each in (key, urgent)] == ["suppressed", "suppressed"]
    assert server.connections == 0
    with database.connection() as connection:
        assert lift(connection, "jane@customer.example", "She called.")
        assert not lift(connection, "jane@customer.example", "She called.")
        assert work.retry(connection, EmailMessage, [key, urgent]) == {key, urgent}
    assert drain(SEND, server_ports) == {"sent": 1}
    assert drain(SEND_URGENT, server_ports) == {"sent": 1}


@pytest.fixture
def look_at_the_account() -> Iterator[None]:
    """As a reminder looks at its invoice: under a lock on its row, at the last moment (B12)."""

    @final_check(AccountSetUp)
    def still_owed(session: Session, mail: EmailMessage) -> None:
        account = session.get_one(Account, mail.account_id, with_for_update=True)
        if account.name == "paid":
            raise Withdrawn("The invoice was paid before the reminder left.")

    yield
    _checks.pop("account-set-up")


PAY = text("UPDATE tenure.accounts SET name = 'paid'")


@pytest.mark.usefixtures("look_at_the_account")
def test_what_is_settled_before_the_server_has_the_message_stops_it(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    def pay(_content: bytes) -> str:
        with database.connection() as connection:
            connection.execute(PAY)
        return "250 ok"

    server.script["RCPT"] = [pay]
    (key,) = queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert (row(database, key).state, row(database, key).last_error) == (
        "cancelled",
        "The invoice was paid before the reminder left.",
    )
    assert server.contents == []


@pytest.mark.usefixtures("look_at_the_account")
@pytest.mark.parametrize("phase", ["DATA", "DOT"])
def test_what_comes_after_the_look_waits_until_the_message_was_answered(
    database: Database, server_ports: Ports, server: MailServer, phase: str
) -> None:
    refused: list[str] = []

    def pay(_content: bytes) -> str:
        with never_mind(OperationalError), database.connection() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            refused.append("waits")
            connection.execute(PAY)
            refused.append("did not wait")
        return "354 go on" if phase == "DATA" else "250 ok"

    server.script[phase] = [pay]
    queued(database, server_ports)
    assert drain(SEND, server_ports) == {"sent": 1}
    assert refused == ["waits"]
    with database.connection() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(PAY)


@pytest.mark.usefixtures("look_at_the_account")
def test_a_look_does_not_wait_for_ever(
    database: Database, server_ports: Ports, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.mail.final_check.FINAL_CHECK_LOCK_TIMEOUT", timedelta(milliseconds=100))
    (key,) = queued(database, server_ports)
    with database.connection() as payment:
        payment.execute(text("SELECT FROM tenure.accounts FOR UPDATE"))
        assert drain(SEND, server_ports) == {"sent": 0, "retried": 1}
    assert "is locked by another transaction" in str(row(database, key).last_error)
    assert (server.contents, server.connections) == ([], 1)
    again(database, server_ports, 1)
    assert row(database, key).state == "done"


@pytest.mark.parametrize("mode", ["lost commit", "lost answer"])
def test_a_mark_whose_commit_was_lost_is_set_once_more_and_the_message_goes_once(
    database: Database, far_ports: Ports, proxy: DatabaseProxy, server: MailServer, mode: str
) -> None:
    (key,) = queued(database, far_ports)

    def at_data(_content: bytes) -> str:
        proxy.arm(mode)
        return "354 go on"

    server.script["DATA"] = [at_data]
    mailer = SMTPMailer(server.url)
    assert drain(SEND, replace(far_ports, mailer=mailer)) == {"sent": 1}
    mailer.close()
    assert proxy.broken == 1
    assert set(server.copies().values()) == {1}
    assert row(database, key).state == "done"


def test_the_same_row_makes_the_same_bytes_and_the_row_keeps_their_hash(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    server.script["DOT"] = ["451 4.3.0 later"]
    (key,) = queued(database, server_ports, name="Zoë", attachments=())
    drain(SEND, server_ports)
    again(database, server_ports, 1)
    first, second = server.contents
    assert first == second
    assert first.isascii(), "not every server on the way takes 8 bits (RFC 6152)"
    sent = row(database, key)
    assert sent.content_sha256 == sha256(second).digest()
    assert (sent.accepted_by, sent.accepted_as) == ("127.0.0.1", "250 2.0.0 accepted")


def test_amazon_ses_sends_what_the_smtp_server_would_get(database: Database, ports: Ports) -> None:
    with SESServer() as ses:
        (key, lost) = queued(database, ports, 2, name="Zoë")
        ses.script = ["", ACCEPT_AND_DROP]
        far = replace(ports, mailer=SESMailer(ses.url, timeout=5))
        assert drain(SEND, far) == {"sent": 1, "settled": 1}
        far.mailer.close()
        sent = row(database, key)
        assert (sent.state, sent.accepted_by, sent.accepted_as) == ("done", "Amazon SES", ses.accepted[0].id)
        assert sent.content_sha256 == sha256(ses.accepted[0].content).digest()
        assert {each.request["EmailTags"][0]["Value"] for each in ses.accepted} == {str(key), str(lost)}
        assert row(database, lost).state == "unknown"
        assert row(database, lost).committing_at is not None


def test_one_limit_holds_for_urgent_and_bulk_mail_together(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    queued(database, server_ports, 2)
    queued(database, server_ports, context=notice())
    with database.connection() as connection:
        set_limits(connection, ALL_MAIL, concurrency=0, rate=None)
    assert [drain(job, server_ports)["sent"] for job in (SEND, SEND_URGENT)] == [0, 0]
    with database.connection() as connection:
        set_limits(connection, ALL_MAIL, concurrency=None, rate=1_000.0)
        connection.execute(text("UPDATE tenure.work_controls SET refilled_at = now() - interval '1 minute'"))
    assert [drain(job, server_ports)["sent"] for job in (SEND, SEND_URGENT)] == [2, 1]
    with database.connection() as connection:
        set_paused(connection, ALL_MAIL, True)
        assert is_paused(connection, SEND.task, *SEND.limits)
    assert len(server.accepted) == 3
