"""A mail server in trouble at each phase of SMTP, and real workers: every message once, or a reason why not (W18, E10,
E17).

`tests/integration/mail/test_send.py` looks at each case by itself; here two processes, the relay and leases that run
out are in it too.
"""

from __future__ import annotations

import email
import os
from collections import Counter
from collections.abc import Callable
from email.policy import SMTP
from time import monotonic, sleep

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.ports.context import Ports
from tests.acceptance.outcome import Outcome
from tests.support.rows.mailing import due_now, queued
from tests.support.servers.mail_server import DROP, MailServer, Reply
from tests.support.servers.processes import Processes, eventually

MESSAGES = 24
#: What a good server answers at each phase.
GOOD = {
    "connect": "220 here",
    "EHLO": "250 here",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 accepted",
}


def late(answer: str) -> Callable[[bytes], str]:
    def reply(_content: bytes) -> str:
        sleep(0.5)
        return answer

    return reply


def everywhere(reply: Reply, times: int) -> dict[str, list[Reply]]:
    return {phase: [reply] * times for phase in [*GOOD, "HELO"]}


def ids(contents: list[bytes]) -> Counter[str]:
    return Counter(str(email.message_from_bytes(each, policy=SMTP)["Message-ID"]) for each in contents)


@pytest.fixture
def run(
    database: Database, ports: Ports, processes: Processes, outcome: Outcome
) -> Callable[[MailServer], dict[str, list[str]]]:
    """Send messages through a server by real processes; returns the Message-IDs by the state in which they ended."""

    def send(server: MailServer) -> dict[str, list[str]]:
        queued(database, ports, MESSAGES)
        # A claim is held by its renewal alone: a slow server takes longer than a lease.
        processes.worker(mail_url=server.url, lease_seconds=1)
        processes.relay()

        def ended_all() -> bool:
            # A schedule of days has no time here.
            due_now(database)
            return not outcome.one("SELECT count(*) FROM tenure.email_messages WHERE state IN ('pending', 'running')")

        eventually(ended_all, "every message is at its end")
        ended: dict[str, list[str]] = {}
        with database.connection() as connection:
            for row in connection.execute(text("SELECT state, message_id FROM tenure.email_messages")):
                ended.setdefault(row.state, []).append(f"<{row.message_id}>")
        return ended

    return send


@pytest.mark.timeout(400)
def test_a_slow_server_gets_every_message_once(
    database: Database, run: Callable[[MailServer], dict[str, list[str]]]
) -> None:
    script: dict[str, list[Reply]] = {phase: [late(answer)] * 8 for phase, answer in GOOD.items()}
    with MailServer(script) as server:
        ended = run(server)
    assert server.copies() == dict.fromkeys(ended["done"], 1)
    assert len(ended["done"]) == MESSAGES
    with database.connection() as connection:
        assert connection.execute(text("SELECT max(attempts) FROM tenure.email_messages")).scalar_one() == 1


@pytest.mark.timeout(400)
def test_a_server_that_refuses_for_now_has_every_message_in_the_end(
    run: Callable[[MailServer], dict[str, list[str]]],
) -> None:
    with MailServer(everywhere("451 4.3.0 try later", 2)) as server:
        ended = run(server)
    assert ids(server.accepted) == dict.fromkeys(ended["done"], 1)
    assert len(ended["done"]) == MESSAGES
    # Two were refused when they had been handed over whole: under their names they came again.
    assert sum(server.copies().values()) == MESSAGES + 2


@pytest.mark.timeout(400)
def test_a_server_that_refuses_for_good_has_the_others_and_each_refusal_has_its_reason(
    database: Database, run: Callable[[MailServer], dict[str, list[str]]]
) -> None:
    with MailServer(everywhere("550 5.7.1 no", 1)) as server:
        ended = run(server)
    # At the door, at EHLO and at MAIL it is we who are refused, and no message.
    assert {state: len(messages) for state, messages in ended.items()} == {"done": MESSAGES - 3, "failed": 3}
    assert ids(server.accepted) == dict.fromkeys(ended["done"], 1)
    assert set(server.copies().values()) == {1}
    with database.connection() as connection:
        why = connection.scalars(text("SELECT last_error FROM tenure.email_messages WHERE state = 'failed'")).all()
    assert sorted(why) == [
        f"The mail server refused {what} for good (550 5.7.1)."
        for what in ("a message", "the message", "the recipient")
    ]


@pytest.mark.timeout(600)
def test_recipients_at_whom_a_server_hangs_up_stop_nobody_else(
    database: Database, ports: Ports, processes: Processes, outcome: Outcome
) -> None:
    """200 mails of which 10 go to such a server; with FAULT_SECONDS (`make faults`) 10,000, of which 50 do."""
    mails, bad = (10_000, 50) if os.environ.get("FAULT_SECONDS") else (200, 10)
    with MailServer() as server:
        server.recipients["bad@customer.example"] = {"RCPT": DROP}
        # One after another, and first in the queue: as they would hurt most.
        queued(database, ports, bad, email="bad@customer.example")
        queued(database, ports, mails - bad, email="good@customer.example")
        started = monotonic()
        processes.worker(mail_url=server.url)
        processes.relay()
        eventually(
            lambda: (
                outcome.one("SELECT count(*) FROM tenure.email_messages WHERE state = 'done'") == mails - bad
                and not outcome.one("SELECT count(*) FROM tenure.email_messages WHERE state = 'running'")
            ),
            "all others have left",
            seconds=500,
        )
        print(f"{mails - bad} mails left in {monotonic() - started:.0f} s beside {bad} that cannot")
        assert set(server.copies().values()) == {1}
        assert len(server.accepted) == mails - bad
    with database.connection() as connection:
        states = connection.execute(
            text("SELECT DISTINCT state FROM tenure.email_messages WHERE to_address LIKE 'bad%'")
        ).scalars()
        # They are tried again for days, and none of them is lost.
        assert set(states) == {"pending"}


@pytest.mark.timeout(400)
def test_a_server_that_hangs_up_has_each_message_once_or_nobody_can_tell(
    run: Callable[[MailServer], dict[str, list[str]]],
) -> None:
    with MailServer(everywhere(DROP, 2)) as server:
        ended = run(server)
    assert {state: len(messages) for state, messages in ended.items()} == {"done": MESSAGES - 2, "unknown": 2}
    # What may have arrived was not sent again.
    assert server.copies() == dict.fromkeys([*ended["done"], *ended["unknown"]], 1)
    assert ids(server.accepted) == dict.fromkeys(ended["done"], 1)
