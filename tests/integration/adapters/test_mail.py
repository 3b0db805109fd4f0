"""What every transport of mail promises, over each of them: one suite (E9, E10, B12, E21)."""

from __future__ import annotations

import email
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.policy import SMTP

import pytest

from tasks.failures import Barred, Doubtful, Failure, Permanent, Transient, Unavailable, Unsuitable
from tasks.ports.mail import Ambiguous, Envelope, Mailer, Receipt
from tests.support.servers import mail_server, ses_server
from tests.support.servers.mail_server import MailServer
from tests.support.servers.ses_server import SESServer
from workers.adapters.mail.address import transports
from workers.adapters.mail.failover import FailoverMailer
from workers.adapters.mail.ses import SESMailer
from workers.adapters.mail.smtp import SMTPMailer

CONTENT = b"Message-ID: <1@tenure.example>\r\nSubject: x\r\n\r\n.\r\n..hello\r\n"
ENVELOPE = Envelope("billing@tenure.example", "jane@customer.example", CONTENT, "0198-row")
#: Seconds of patience with an answer.
TIMEOUT = 1.0


@dataclass
class Transport:
    """A transport with the server behind it, and what the tests must know of both."""

    mailer: Mailer
    contents: Callable[[], list[bytes]]
    accepted: Callable[[], list[bytes]]
    connections: Callable[[], int]
    #: Make the next message be refused for good, put off, dropped after it was accepted, or never answered.
    refuse: Callable[[], None]
    put_off: Callable[[], None]
    drop: Callable[[], None]
    be_silent: Callable[[], None]
    talk_nonsense: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def smtp(*, pipelining: bool) -> Iterator[Transport]:
    with MailServer() as server:
        if pipelining:
            server.extensions = ("PIPELINING", *server.extensions)
        made = SMTPMailer(server.url, timeout=TIMEOUT)

        def says(phase: str, reply: mail_server.Reply) -> Callable[[], None]:
            return lambda: server.script.setdefault(phase, []).append(reply)

        def accept_and_drop(content: bytes) -> str:
            server.accepted.append(content)
            return mail_server.DROP

        def stop() -> None:
            server.__exit__()
            made.close()

        yield Transport(
            made,
            lambda: server.contents,
            lambda: server.accepted,
            lambda: server.connections,
            says("RCPT", "550 5.1.1 jane@customer.example is unknown"),
            says("RCPT", "451 4.3.0 later"),
            says("DOT", accept_and_drop),
            says("DOT", mail_server.SILENCE),
            says("DOT", "nonsense"),
            stop,
        )
        made.close()


@contextmanager
def ses() -> Iterator[Transport]:
    with SESServer() as server:
        made = SESMailer(server.url, timeout=TIMEOUT)

        def says(reply: ses_server.Reply) -> Callable[[], None]:
            return lambda: server.script.append(reply)

        def stop() -> None:
            server.__exit__()
            made.close()

        yield Transport(
            made,
            lambda: server.contents,
            lambda: [each.content for each in server.accepted],
            lambda: server.connections,
            says((400, "MessageRejected")),
            says((429, "TooManyRequestsException")),
            says(ses_server.ACCEPT_AND_DROP),
            says(ses_server.SILENCE),
            says(ses_server.GARBAGE),
            stop,
        )
        made.close()


@contextmanager
def behind_one_that_is_away() -> Iterator[Transport]:
    with smtp(pipelining=False) as second:
        second.mailer = FailoverMailer([SMTPMailer(nobody()), second.mailer])
        yield second


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"smtp://127.0.0.1:{unused.getsockname()[1]}"


TRANSPORTS = {
    "smtp": lambda: smtp(pipelining=False),
    "smtp, pipelined": lambda: smtp(pipelining=True),
    "ses": ses,
    "failover": behind_one_that_is_away,
}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    with TRANSPORTS[request.param]() as made:
        yield made


@dataclass
class Steps:
    """What was asked of the caller, in order, with how many messages the server had at that time."""

    transport: Transport
    seen: list[tuple[str, int]] = field(default_factory=list)
    refuse_at: str = ""

    def note(self, step: str) -> None:
        self.seen.append((step, len(self.transport.contents())))
        if step == self.refuse_at:
            raise ZeroDivisionError

    @contextmanager
    def permit(self) -> Iterator[None]:
        self.note("permit")
        try:
            yield
        finally:
            self.note("permit over")

    def send(self, envelope: Envelope = ENVELOPE) -> Receipt:
        return self.transport.mailer.send(
            envelope, permit=self.permit, before_commit=lambda: self.note("before commit")
        )


def test_a_message_arrives_as_it_is_and_the_caller_is_asked_before(transport: Transport) -> None:
    steps = Steps(transport)
    receipt = steps.send()
    assert transport.accepted() == [CONTENT]
    assert receipt.transport
    assert receipt.answer
    assert steps.seen == [("permit", 0), ("before commit", 0), ("permit over", 1)]


def test_many_messages_take_one_connection(transport: Transport) -> None:
    for _ in range(20):
        Steps(transport).send()
    assert len(transport.accepted()) == 20
    assert transport.connections() == 1


@pytest.mark.parametrize("step", ["permit", "before commit"])
def test_what_the_caller_refuses_does_not_leave_and_the_next_does(transport: Transport, step: str) -> None:
    with pytest.raises(ZeroDivisionError):
        Steps(transport, refuse_at=step).send()
    assert transport.contents() == []
    Steps(transport).send()
    assert transport.accepted() == [CONTENT]
    if step == "permit":
        assert transport.connections() == 1


def test_a_refusal_for_good_is_permanent_and_quotes_no_address(transport: Transport) -> None:
    transport.refuse()
    with pytest.raises(Permanent) as refused:
        Steps(transport).send()
    assert "jane" not in str(refused.value)
    Steps(transport).send()
    assert transport.accepted() == [CONTENT]
    assert transport.connections() == 1


def test_a_refusal_for_now_may_be_tried_again(transport: Transport) -> None:
    transport.put_off()
    with pytest.raises((Transient, Unavailable)):
        Steps(transport).send()
    Steps(transport).send()
    assert transport.accepted() == [CONTENT]


@pytest.mark.parametrize("trouble", ["drop", "be_silent", "talk_nonsense"])
def test_a_lost_answer_is_ambiguous_and_nothing_is_sent_again(transport: Transport, trouble: str) -> None:
    getattr(transport, trouble)()
    steps = Steps(transport)
    with pytest.raises(Ambiguous):
        steps.send()
    assert len(transport.contents()) == 1
    assert [step for step, _ in steps.seen] == ["permit", "before commit", "permit over"]
    Steps(transport).send()
    assert len(transport.contents()) == 2


def test_a_server_that_is_not_there_is_unavailable(transport: Transport) -> None:
    Steps(transport).send()
    transport.stop()
    with pytest.raises(Unavailable):
        Steps(transport).send()
    assert len(transport.contents()) == 1


def test_an_address_with_a_line_break_reaches_no_server(transport: Transport) -> None:
    hostile = Envelope("billing@tenure.example", "a@b.example>\r\nRCPT TO:<victim@evil.example", CONTENT)
    with pytest.raises(Failure):
        Steps(transport).send(hostile)
    assert transport.contents() == []


# What is one transport's own.


def test_ses_gets_raw_mime_the_configuration_set_and_a_tag_that_names_the_row() -> None:
    with SESServer() as server:
        made = SESMailer(server.url, timeout=TIMEOUT)
        receipt = made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None)
        (accepted,) = server.accepted
        assert receipt == Receipt("Amazon SES", accepted.id)
        assert email.message_from_bytes(accepted.content, policy=SMTP)["Message-ID"] == "<1@tenure.example>"
        request = {name: value for name, value in accepted.request.items() if name != "Content"}
        assert request == {
            "FromEmailAddress": "billing@tenure.example",
            "Destination": {"ToAddresses": ["jane@customer.example"]},
            "ConfigurationSetName": "tenure",
            "EmailTags": [{"Name": "tenure-message", "Value": "0198-row"}],
        }
        made.close()


@contextmanager
def permit_all() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (400, "MessageRejected", Permanent),
        (400, "BadRequestException", Permanent),
        (429, "TooManyRequestsException", Unavailable),
        (400, "LimitExceededException", Unavailable),
        (400, "SendingPausedException", Unavailable),
        (400, "MailFromDomainNotVerifiedException", Unavailable),
        (404, "NotFoundException", Unavailable),
        (403, "SignatureDoesNotMatch", Unavailable),
        (403, "AccessDeniedException", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        # Nobody says whether what broke had the message already.
        (500, "InternalFailure", Ambiguous),
        (504, "GatewayTimeout", Ambiguous),
    ],
)
def test_what_ses_answers_and_what_that_means(status: int, code: str, meaning: type[Exception]) -> None:
    with SESServer() as server:
        server.script = [(status, code)]
        made = SESMailer(server.url, timeout=TIMEOUT)
        with pytest.raises(meaning) as told:
            made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None)
        assert code in str(told.value)
        assert "jane" not in str(told.value)
        assert len(server.contents) == 1
        made.close()


def test_ses_without_credentials_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(Unavailable, match="NoCredentialsError"):
        SESMailer("ses://eu-central-1", timeout=TIMEOUT).send(ENVELOPE, permit=permit_all, before_commit=lambda: None)


@pytest.mark.parametrize("extensions", [(), ("8BITMIME",), ("SMTPUTF8",)])
def test_what_a_server_cannot_take_is_not_sent_to_it(extensions: tuple[str, ...]) -> None:
    with MailServer() as server:
        server.extensions = extensions
        made = SMTPMailer(server.url, timeout=TIMEOUT)
        foreign = {
            "8BITMIME": Envelope("a@tenure.example", "b@customer.example", "Grüße\r\n".encode()),
            "SMTPUTF8": Envelope("a@tenure.example", "jörg@customer.example", b"x\r\n"),
        }
        for needed, envelope in foreign.items():
            if needed in extensions:
                made.send(envelope, permit=permit_all, before_commit=lambda: None)
            else:
                with pytest.raises(Permanent):
                    made.send(envelope, permit=permit_all, before_commit=lambda: None)
        assert len(server.accepted) == len(extensions)
        told = [command for command in server.commands if command.startswith("MAIL")]
        assert all(("BODY=8BITMIME" in each) == ("8BITMIME" in extensions) for each in told)
        made.close()


def test_pipelining_saves_a_round_trip_and_a_refused_sender_is_still_understood() -> None:
    with smtp(pipelining=True) as transport, MailServer() as server:
        server.extensions = ("PIPELINING",)
        server.script = {"MAIL": ["550 5.7.1 not you"], "RCPT": ["503 5.5.1 no sender"]}
        made = SMTPMailer(server.url, timeout=TIMEOUT)
        with pytest.raises(Barred, match="refuses us, and not the recipient"):
            made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None)
        made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None)
        assert server.accepted == [CONTENT]
        assert server.connections == 1
        made.close()
        assert transport.contents() == []


def test_the_next_transport_is_asked_only_until_the_mark() -> None:
    with MailServer() as first, MailServer() as second:
        made = FailoverMailer(transports(f"{first.url} {second.url}"), rest=0.0)

        def send() -> Receipt:
            return made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None)

        send()
        assert (len(first.accepted), len(second.accepted)) == (1, 0)
        # Until the server has agreed to take it, nothing has left.
        for phase in ("MAIL", "RCPT", "DATA"):
            first.script = {phase: ["421 4.3.2 closing"] * 2}
            send()
        assert (len(first.contents), len(second.accepted)) == (1, 3)
        # From the mark on it has: whatever the first does now, the second gets no copy.
        for reply in (mail_server.DROP, "421 4.3.2 closing"):
            first.script = {"DOT": [reply]}
            with pytest.raises((Ambiguous, Unavailable)):
                send()
        assert len(second.contents) == 3
        made.close()


def test_a_transport_that_is_away_is_passed_over_for_a_while_and_preferred_again_after() -> None:
    asked: list[str] = []

    class Moody:
        def __init__(self, name: str) -> None:
            self.name, self.away = name, False

        def send(self, *_: object, **__: object) -> Receipt:
            asked.append(self.name)
            if self.away:
                raise Unavailable(f"{self.name} is away.")
            return Receipt(self.name, "ok")

        def close(self) -> None:
            pass

    first, second = Moody("first"), Moody("second")
    made = FailoverMailer([first, second], rest=0.3)

    def send() -> str:
        return made.send(ENVELOPE, permit=permit_all, before_commit=lambda: None).transport

    first.away = True
    assert [send(), send()] == ["second", "second"]
    assert asked == ["first", "second", "second"]
    second.away = True
    with pytest.raises(Unavailable, match=r"(first|second) is away"):
        send()
    first.away = second.away = False
    while send() != "first":
        pass


def offer(made: Mailer, envelope: Envelope = ENVELOPE) -> Receipt:
    return made.send(envelope, permit=permit_all, before_commit=lambda: None)


@pytest.mark.parametrize(
    ("phase", "reply", "meaning"),
    [
        ("connect", "554 5.7.1 no service for you", Barred),
        ("EHLO", "550 5.7.1 that is not your name", Barred),
        ("MAIL", "530 5.7.0 Authentication required", Barred),
        ("MAIL", "550 5.7.1 not you", Barred),
        ("MAIL", "552 5.3.4 message size exceeds the limit", Unsuitable),
        ("RCPT", "530 5.7.0 Authentication required", Barred),
        ("RCPT", "554 5.7.1 <jane@customer.example>: Relay access denied", Doubtful),
        ("RCPT", "550 5.7.1 <relay@customer.example>: no such user", Permanent),
        ("RCPT", "454 4.7.0 Temporary authentication failure", Barred),
        ("RCPT", "450 4.7.1 <jane@customer.example>: Recipient address rejected: Greylisted", Transient),
        ("RCPT", "452 4.2.2 mailbox full", Transient),
        ("RCPT", "552 5.2.2 mailbox full", Transient),
        ("RCPT", "550 5.1.1 nobody of that name", Permanent),
        ("RCPT", "550 5.2.1 jane@customer.example mailbox disabled", Permanent),
        ("DATA", "550 5.4.5 Daily user sending limit exceeded", Doubtful),
        ("DOT", "550 5.4.5 Daily sending quota exceeded.", Doubtful),
        ("DOT", "554 5.7.1 rejected as spam", Permanent),
        ("DOT", "552 5.3.4 too big", Unsuitable),
        ("DOT", "421 4.3.2 closing", Doubtful),
    ],
)
def test_what_a_refusal_means(phase: str, reply: str, meaning: type[Exception]) -> None:
    with MailServer({phase: [reply] * 2, "HELO": [reply]}) as server:
        made = SMTPMailer(server.url, timeout=TIMEOUT)
        with pytest.raises(meaning) as raised:
            offer(made)
        assert type(raised.value) is meaning
        assert "jane" not in str(raised.value)
        made.close()


def test_a_transport_that_refuses_us_is_not_asked_for_a_while_and_the_next_is() -> None:
    with MailServer() as first, MailServer() as second:
        first.script = {"MAIL": ["530 5.7.0 Authentication required"] * 9}
        made = FailoverMailer(transports(f"{first.url} {second.url}"))
        for _ in range(4):
            offer(made)
        assert (len(second.accepted), first.connections) == (4, 1)
        assert sum(command.startswith("MAIL") for command in first.commands) == 1
        alone = FailoverMailer(transports(first.url))
        for _ in range(3):
            with pytest.raises(Barred) as raised:
                offer(alone)
            assert raised.value.wait is not None
        assert sum(command.startswith("MAIL") for command in first.commands) == 2
        made.close()
        alone.close()


def test_a_message_too_large_for_a_server_is_not_offered_to_it_and_the_next_takes_it() -> None:
    with MailServer() as small, MailServer() as large:
        small.extensions, large.extensions = ("SIZE 1000",), ("SIZE 0",)
        envelope = Envelope("a@tenure.example", "b@customer.example", b"Subject: x\r\n\r\n" + b"x\r\n" * 1_000)
        alone = SMTPMailer(small.url, timeout=TIMEOUT)
        with pytest.raises(Unsuitable, match="the mail server takes 1000"):
            offer(alone, envelope)
        assert not [command for command in small.commands if command.startswith("MAIL")]
        both = FailoverMailer(transports(f"{small.url} {large.url}"))
        offer(both, envelope)
        assert len(large.accepted) == 1
        # The small one is as good as before for what it can take.
        offer(both)
        assert small.accepted == [CONTENT]
        alone.close()
        both.close()


@pytest.mark.parametrize("most", [1, 3])
def test_a_server_that_closes_after_some_messages_costs_a_connection_and_no_round_trip(most: int) -> None:
    with MailServer() as server:
        server.closes_after = most
        made = SMTPMailer(server.url, timeout=TIMEOUT)
        for _ in range(12):
            offer(made)
        assert len(server.accepted) == 12
        # Once it was offered a message too many; then that is known.
        assert sum(command.startswith("MAIL") for command in server.commands) == 13
        assert server.connections == 12 // most
        made.close()


def test_the_name_of_helo_and_the_source_address_are_settings() -> None:
    with MailServer() as server:
        made = SMTPMailer(f"{server.url}?helo=out.tenure.example&source=127.0.0.2", timeout=TIMEOUT)
        offer(made)
        assert "ehlo out.tenure.example" in server.commands
        assert server._open[0].getpeername()[0] == "127.0.0.2"
        made.close()


@pytest.mark.parametrize(
    "reply", [b"250-more\r\n" * 200, b"2", b"250-x\r\n250-"], ids=["endless", "half", "unfinished"]
)
def test_a_reply_without_end_is_given_up(reply: bytes) -> None:
    with MailServer({"RCPT": [reply] * 2}) as server:
        made = SMTPMailer(server.url, timeout=0.3)
        with pytest.raises(Doubtful):
            offer(made)
        assert server.contents == []
        made.close()


def test_a_message_with_half_a_line_break_reaches_no_server(transport: Transport) -> None:
    for content in (b"Subject: x\n\nx\r\n", b"Subject: x\r\n\r\nx\n.\r\nMAIL FROM:<evil@x.example>\r\n"):
        with pytest.raises(Permanent):
            Steps(transport).send(Envelope("billing@tenure.example", "jane@customer.example", content))
    assert transport.contents() == []
