"""P5: messages of 10 KB, ready-made, to a mail server that takes everything at once.

Ours is the transport as a worker uses it: one connection, the look at the last moment and the mark between the steps
(which do nothing here), one message and its answer at a time. The limit is smtplib on one open connection with the same
bytes; the peer is what people write, a connection for each message.
"""

from __future__ import annotations

import smtplib
import sys
from contextlib import nullcontext
from time import perf_counter, process_time

from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.servers import Servers
from tasks.ports.mail import Envelope
from workers.adapters.mail.smtp import SMTPMailer

SENDER = "billing@tenure.example"
RECIPIENT = "jane@customer.example"
#: A connection each is slow: fewer messages tell as much.
PEER_SHARE = 10


def message(number: int) -> bytes:
    head = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nMessage-ID: <{number}@tenure.example>\r\nSubject: Statement\r\n\r\n"
    line = "All work and no play makes a statement of account a rather dull piece of reading.\r\n"
    return (head + line * (10_000 // len(line))).encode()


def rows(servers: Servers, work: int, runs: int) -> Row:
    messages = [message(number) for number in range(work)]
    with servers.crew() as crew:
        crew.start("sink", [sys.executable, "-m", "benchmarks.sink"], until="port ")
        port = int(crew.log("sink").split()[-1])
        ours = "Tenure: its SMTP transport, one connection"
        limit = "smtplib, one connection"
        each = "smtplib, a connection each"
        measured = interleaved(
            {
                limit: lambda: _one_connection(port, messages),
                ours: lambda: _ours(port, messages),
                each: lambda: _a_connection_each(port, messages[: max(1, work // PEER_SHARE)]),
            },
            runs,
        )
    row = Row(
        "P5",
        f"send {work:,} messages of 10 KB",
        "messages/s",
        Better.HIGHER,
        measured[ours],
        measured[limit],
        [measured[each]],
    )
    of_limit, of_peer = row.ratio(measured[limit]), row.ratio(measured[each])
    row.goals = [
        Goal("≥ 70 % of smtplib on one open connection", f"{of_limit:.0%}", of_limit >= 0.7),
        Goal("≥ 5 × a connection each", f"{of_peer:.1f} ×", of_peer >= 5),
    ]
    row.notes = [f"a connection each did {max(1, work // PEER_SHARE):,} messages"]
    return row


def _ours(port: int, messages: list[bytes]) -> Sample:
    mailer = SMTPMailer(f"smtp://127.0.0.1:{port}")
    begun, used = perf_counter(), process_time()
    for content in messages:
        receipt = mailer.send(Envelope(SENDER, RECIPIENT, content), permit=nullcontext, before_commit=lambda: None)
        assert receipt.answer == "250 taken"
    sample = Sample(len(messages) / (perf_counter() - begun), cpu=process_time() - used)
    mailer.close()
    return sample


def _one_connection(port: int, messages: list[bytes]) -> Sample:
    with smtplib.SMTP("127.0.0.1", port) as connection:
        begun, used = perf_counter(), process_time()
        for content in messages:
            assert connection.sendmail(SENDER, RECIPIENT, content) == {}
        return Sample(len(messages) / (perf_counter() - begun), cpu=process_time() - used)


def _a_connection_each(port: int, messages: list[bytes]) -> Sample:
    begun, used = perf_counter(), process_time()
    for content in messages:
        with smtplib.SMTP("127.0.0.1", port) as connection:
            assert connection.sendmail(SENDER, RECIPIENT, content) == {}
    return Sample(len(messages) / (perf_counter() - begun), cpu=process_time() - used)
