"""Each phase of SMTP, each way in which a server can be rude, one message or a batch: none lost, none twice (E10, E11,
E20, E22).

The server is rude once, and twice where that ends the connection, since a new one is opened at once; then it is good.
Copies are counted by Message-ID. The table of docs/reliability.md is what comes out: `make faults` compares all of
it, and `FAULT_SECONDS=1 pytest --rewrite-golden` writes it anew.
"""

from __future__ import annotations

import email
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from email.policy import SMTP
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from models.base.unit_of_work import Database
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tests.support.rows.mailing import due_now, queued
from tests.support.servers.mail_server import DROP, SILENCE, LastWords, MailServer, Reply
from workers.adapters.mail.failover import FailoverMailer
from workers.adapters.mail.smtp import SMTPMailer

RELIABILITY = Path(__file__).parents[3] / "docs" / "reliability.md"
#: All phases by `make faults`; in the test run the two at which most servers are rude.
WHOLE = bool(os.environ.get("FAULT_SECONDS"))
#: Part of the recipient's address: a server may quote it, and nothing may repeat it.
CANARY = "canary-7531"
BATCH = 6
GOOD = {
    "connect": "220 here",
    "EHLO": "250 here",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "CONTENT": "",
    "DOT": "250 2.0.0 accepted",
}
#: By name; what depends on the phase is made of its good answer.
BEHAVIOURS: dict[str, Callable[[str], Reply]] = {
    "refuses for now": lambda _: f"451 4.3.0 {CANARY}@customer.example: try later",
    "greylists": lambda _: f"450 4.7.1 <{CANARY}@customer.example>: Recipient address rejected: Greylisted",
    "closes its door": lambda _: f"421 lk4-{CANARY}@customer.example, too many connections",
    "refuses for good": lambda _: f"550 5.1.1 <{CANARY}@customer.example> is unknown here",
    "mailbox is full": lambda _: f"552 5.2.2 {CANARY}: mailbox full",
    "wants a password": lambda _: f"530 5.7.0 {CANARY} Authentication required",
    "does not relay": lambda _: f"554 5.7.1 <{CANARY}@customer.example>: Relay access denied",
    "too large": lambda _: f"552 5.3.4 {CANARY} message size exceeds fixed limit",
    "hangs up": lambda _: DROP,
    "answers and hangs up": lambda _: LastWords(),
    "is silent": lambda _: SILENCE,
    "stops in a line": lambda good: good[:2].encode() or b"2",
    "talks nonsense": lambda _: f"what {CANARY}@customer.example?",
    "a NUL in its answer": lambda good: f"{good or '250 ok'} queued\0 for {CANARY}@customer.example",
    "octets of no script": lambda good: (good or "250 ok").encode() + b" \xff\xfe " + CANARY.encode() + b"\r\n",
    "a line too long": lambda _: CANARY + "x" * 20_000,
    "never ends": lambda _: b"250-more\r\n" * 200,
    "two codes in one answer": lambda _: f"250-ok {CANARY}\r\n550 5.1.1 no {CANARY}",
    "a good answer out of turn": lambda good: "250 ok" if good.startswith("354") else "354 go on",
}


REFUSALS = frozenset(list(BEHAVIOURS)[:8]) - {"closes its door"} | {"two codes in one answer"}
#: A server that has not the whole message says nothing good of it.
NOT_WITHIN = frozenset({"answers and hangs up", "stops in a line", "a NUL in its answer", "octets of no script"})


def outcome(database: Database, ports: Ports, phase: str, reply: Callable[[], Reply], *, count: int, times: int) -> str:
    """Send through a server that is rude at first; check that nothing is lost or doubled; return what became of it."""
    with database.connection() as connection:
        connection.execute(text("DELETE FROM tenure.email_messages"))
    with MailServer() as server:
        server.script = {phase: [reply() for _ in range(times)]}
        if phase == "EHLO":
            server.script["HELO"] = [reply() for _ in range(times)]
        mailer = FailoverMailer([SMTPMailer(server.url, timeout=0.25)], pause=0.01)
        queued(database, ports, count, email=f"{CANARY}@customer.example")
        with capture_logs() as logs:
            for _ in range(6):
                due_now(database)
                drain(SEND, replace(ports, mailer=mailer))
                if not waiting(database):
                    break
        mailer.close()
        with database.connection() as connection:
            rows = connection.execute(
                text("SELECT state, message_id, attempts, last_error, accepted_as FROM tenure.email_messages")
            ).all()
        accepted = Counter(
            str(email.message_from_bytes(each, policy=SMTP)["Message-ID"]).strip("<>") for each in server.accepted
        )
    ends = Counter(each.state for each in rows)
    for each in rows:
        assert each.state in {"done", "failed", "unknown"}, f"a mail is {each.state}: {each.last_error}"
        if each.state == "done":
            assert accepted[each.message_id] == 1
        elif each.state == "failed":
            assert accepted[each.message_id] == 0
        else:
            assert phase in {"DATA", "CONTENT", "DOT"}, "what has not left is never in doubt"
            assert accepted[each.message_id] <= 1
    assert ends["unknown"] + ends["failed"] <= times, "others are not to blame"
    said = f"{logs} {[(each.last_error, each.accepted_as) for each in rows]}"
    assert CANARY not in said
    if ends["unknown"]:
        return "unknown"
    if ends["failed"]:
        return "failed"
    return "sent" if max(each.attempts for each in rows) == 1 else "sent, 2nd try"


def waiting(database: Database) -> bool:
    with database.connection() as connection:
        found = connection.execute(text("SELECT EXISTS (SELECT FROM tenure.email_messages WHERE state = 'pending')"))
        return bool(found.scalar_one())


def line(behaviour: str, cells: list[str]) -> str:
    return f"| {behaviour} | {' | '.join(cells)} |"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_rude_server_loses_nothing_and_doubles_nothing(
    database: Database, ports: Ports, behaviour: str, request: pytest.FixtureRequest
) -> None:
    make = BEHAVIOURS[behaviour]
    cells = []
    phases = {phase: good for phase, good in GOOD.items() if WHOLE or phase in {"RCPT", "DOT"}}
    for phase, good in phases.items():
        if phase == "CONTENT" and behaviour in NOT_WITHIN:
            cells.append("–")
            continue
        times = 1 if behaviour in REFUSALS or phase in {"CONTENT", "DOT"} else 2
        one, batch = (
            outcome(database, ports, phase, partial(make, good), count=count, times=times) for count in (1, BATCH)
        )
        cells.append(one if one == batch else f"{one}; in a batch {batch}")
    written = RELIABILITY.read_text(encoding="utf-8")
    found = [each for each in written.splitlines() if each.startswith(f"| {behaviour} |")]
    if request.config.getoption("--rewrite-golden") and WHOLE and found:
        RELIABILITY.write_text(written.replace(found[0], line(behaviour, cells)), encoding="utf-8")
        return
    columns = [each.strip() for each in found[0].strip("|").split("|")][1:]
    assert [columns[list(GOOD).index(phase)] for phase in phases] == cells
