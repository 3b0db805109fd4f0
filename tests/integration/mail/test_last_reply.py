"""After the mark only sent, refused or unknown can follow, whatever fails; and a reply that was heard counts (E10,
E18, E19).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from threading import Thread
from time import sleep

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.base.unit_of_work import Database
from models.mail.email_message import EmailMessage
from models.work import row as work
from models.work.row import Retries
from tasks.engine.drain import drain
from tasks.mail import send
from tasks.mail.send import PATIENT, SEND
from tasks.ports.context import Ports
from tests.support.rows.mailing import due_now, queued, row
from tests.support.servers.database_proxy import DatabaseProxy
from tests.support.servers.mail_server import DROP, MailServer
from workers.adapters.mail.smtp import SMTPMailer


@pytest.mark.parametrize(
    "answer", ["250 2.0.0 queued\0", "250 \ud7ff ok", "250 " + "x" * 3_000, "250", "250-a\r\n250 b"]
)
def test_whatever_a_server_says_with_its_250_the_mail_is_sent_once(
    database: Database, server_ports: Ports, server: MailServer, answer: str
) -> None:
    server.script["DOT"] = [answer] * 3
    keys = queued(database, server_ports, 3)
    for _ in range(4):
        due_now(database)
        drain(SEND, server_ports)
    assert [row(database, key).state for key in keys] == ["done"] * 3
    assert set(server.copies().values()) == {1}


def test_an_answer_is_kept_without_addresses(database: Database, server_ports: Ports, server: MailServer) -> None:
    server.script["DOT"] = ["250 2.0.0 queued as 4711 for <jane@customer.example> by \x1b[31mred"]
    (key,) = queued(database, server_ports)
    drain(SEND, server_ports)
    assert row(database, key).accepted_as == "250 2.0.0 queued as 4711 for by [31mred"


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("bug"), SoftTimeLimitExceeded(), MemoryError(), ValueError("\0")], ids=repr
)
def test_an_error_while_an_answer_is_recorded_never_sends_the_mail_again(
    database: Database, server_ports: Ports, server: MailServer, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = queued(database, server_ports, 3)

    def fail(*_: object) -> None:
        raise error

    broken = replace(SEND, record=fail)
    for _ in range(4):
        due_now(database)
        drain(broken, server_ports)
    assert [row(database, key).state for key in keys] == ["unknown"] * 3
    assert set(server.copies().values()) == {1}


def test_a_250_that_was_heard_is_recorded_when_postgresql_is_back_after_seconds(
    database: Database, far_ports: Ports, proxy: DatabaseProxy, server: MailServer
) -> None:
    (key,) = queued(database, far_ports)

    def away_for_a_while(_content: bytes) -> str:
        proxy.go_away()
        Thread(target=come_back, daemon=True).start()
        return "250 2.0.0 accepted"

    def come_back() -> None:
        sleep(4)
        proxy.come_back()

    server.script["DOT"] = [away_for_a_while]
    mailer = SMTPMailer(server.url)
    assert drain(SEND, replace(far_ports, mailer=mailer)) == {"sent": 1}
    mailer.close()
    assert row(database, key).state == "done"
    assert set(server.copies().values()) == {1}


@pytest.mark.parametrize("state", ["pending", "failed", "cancelled", "suppressed"])
def test_the_database_refuses_to_make_a_mail_due_or_failed_that_may_be_out(
    database: Database, ports: Ports, state: str
) -> None:
    queued(database, ports)
    with pytest.raises(IntegrityError, match="ck_email_messages_committing_at"), database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.email_messages SET committing_at = now(), state = :state"), {"state": state}
        )


@pytest.mark.parametrize("action", ["fail", "fail for good", "release"])
def test_a_row_whose_mail_may_be_out_is_not_put_back(database: Database, ports: Ports, action: str) -> None:
    (key,) = queued(database, ports)
    with database.connection() as connection:
        claim = work.claim(connection, EmailMessage, 1, worker="host|1|1", lease=timedelta(minutes=1))
        connection.execute(text("UPDATE tenure.email_messages SET committing_at = now()"))
        if action == "release":
            assert work.release(connection, EmailMessage, claim.token, [key]) == 0
        else:
            ended = work.fail(connection, EmailMessage, claim.token, {key: "no"}, permanent=action != "fail")
            assert ended == set()
    assert row(database, key).state == ("running" if action == "release" else "unknown")


def always(server: MailServer, phase: str, address: str) -> None:
    server.recipients[address] = {phase: DROP}


@pytest.mark.parametrize("phase", ["RCPT", "DATA"])
def test_a_recipient_at_whom_the_server_hangs_up_stops_nobody_else_and_is_to_blame(
    database: Database, server_ports: Ports, server: MailServer, phase: str
) -> None:
    bad = queued(database, server_ports, 7, email="bad@customer.example")
    good = queued(database, server_ports, 20, email="good@customer.example")
    always(server, phase, "bad@customer.example")
    for _ in range(3):
        drain(SEND, server_ports)
        with database.connection() as connection:
            connection.execute(
                text("UPDATE tenure.email_messages SET due_at = due_at - interval '6 s' WHERE state = 'pending'")
            )
    assert {row(database, key).state for key in good} == {"done"}
    # Those that were tried before any other got through are tried again later, without an attempt used up.
    assert {row(database, key).state for key in bad} == {"pending"}
    due_now(database)
    drain(SEND, server_ports)
    assert min(row(database, key).attempts for key in bad) >= 1
    assert set(server.copies().values()) == {1}


def test_a_server_that_hangs_up_at_everybody_has_no_row_to_blame(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    keys = queued(database, server_ports, 8, email="jane@customer.example")
    always(server, "RCPT", "jane@customer.example")
    for _ in range(4):
        due_now(database)
        drain(SEND, server_ports)
    assert {(row(database, key).state, row(database, key).attempts) for key in keys} == {("pending", 0)}
    server.recipients.clear()
    due_now(database)
    drain(SEND, server_ports)
    assert {row(database, key).state for key in keys} == {"done"}


def test_a_mail_is_tried_for_four_to_five_days(database: Database, server_ports: Ports, server: MailServer) -> None:
    (key,) = queued(database, server_ports, email="full@customer.example")
    server.recipients["full@customer.example"] = {"RCPT": "450 4.7.1 Greylisted"}
    waited, longest = timedelta(0), timedelta(0)
    for _ in range(PATIENT.attempts):
        due_now(database)
        with database.connection() as connection:
            before = connection.execute(text("SELECT now()")).scalar_one()
        drain(SEND, server_ports)
        wait = row(database, key).due_at - before
        waited, longest = waited + wait, max(longest, wait)
    assert row(database, key).state == "failed"
    assert timedelta(days=4) <= waited <= timedelta(days=5)
    assert timedelta(hours=2) <= longest <= timedelta(hours=4, minutes=1)


@pytest.mark.parametrize(
    ("first", "longest", "lasting"), [(2, 3600, 300), (30, 14_400, 388_800), (1, 1, 10), (60, 60, 60), (5, 5, 0)]
)
def test_attempts_last_as_long_as_they_should(first: int, longest: int, lasting: int) -> None:
    schedule = Retries(timedelta(seconds=first), timedelta(seconds=longest), timedelta(seconds=lasting))
    waits = [min(first * 2**number, longest / 1.5) * 1.25 for number in range(schedule.attempts - 1)]
    assert sum(waits) >= lasting > sum(waits[:-1]) or lasting == 0


def kinds_of_trouble() -> list[Callable[[], Exception]]:
    return [ZeroDivisionError, lambda: send.Transient("later"), lambda: send.Permanent("no")]


@pytest.mark.parametrize("trouble", kinds_of_trouble())
def test_a_bug_is_loud_after_minutes_and_does_not_wait_for_days(
    database: Database, server_ports: Ports, trouble: Callable[[], Exception]
) -> None:
    (key,) = queued(database, server_ports)

    def fail(*_: object) -> send.Sent:
        raise trouble()

    for _ in range(EmailMessage.max_attempts):
        due_now(database)
        drain(replace(SEND, act=fail), server_ports)
    expected = {"ZeroDivisionError": "failed", "Transient": "pending", "Permanent": "failed"}
    assert row(database, key).state == expected[type(trouble()).__name__]
