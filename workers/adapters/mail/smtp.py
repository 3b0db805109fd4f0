"""Mail over SMTP (RFC 5321), one connection for many messages (E9, E10)."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tasks.engine.failpoints import failpoint
from tasks.failures import Barred, Doubtful, Failure, Permanent, Unavailable, Unsuitable
from tasks.mail.wire_check import require_lines
from tasks.ports.mail import Ambiguous, Envelope, Permit, Receipt
from workers.adapters.smtp_connection import Connection, EncryptedConnection
from workers.adapters.smtp_replies import Step, detail, quotable, refusal

#: Seconds for any one answer of the server.
TIMEOUT = 30.0
#: Seconds after which an idle connection is asked whether it still lives before a message is entrusted to it.
IDLE = 10.0
#: RFC 6152: without it, a message outside ASCII cannot be sent.
EIGHTBITMIME = "8bitmime"
#: RFC 6531: without it, an address or header outside ASCII cannot be sent.
SMTPUTF8 = "smtputf8"
#: RFC 2920: sender and recipient in one round trip.
PIPELINING = "pipelining"
#: RFC 1870: how large a message may be, in octets; 0 where the server does not say.
SIZE = "size"

#: What a connection that breaks off looks like.
BROKEN = (OSError, smtplib.SMTPException)


#: Seconds for which it is remembered after how many messages a server closes its connections.
CLOSING_REMEMBERED = 600.0


class Lost(Exception):
    """The connection broke, or the server closed it by 421, before anything of the message had left."""


class SMTPMailer:
    """`smtp://` in the clear (local only), `smtp+starttls://` or `smtps://`, with user and password where given.

    `?helo=mail.example.com&source=192.0.2.1` sets the name of HELO and the address that connections come from.
    """

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(address)
        options = parse_qs(parts.query)
        self._scheme = parts.scheme
        self._host = parts.hostname or ""
        self._port = parts.port or {"smtps": 465, "smtp+starttls": 587}.get(parts.scheme, 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password or "")
        self._helo = options.get("helo", [None])[0]
        self._source = options.get("source", [None])[0]
        self._timeout = timeout
        self._connection: smtplib.SMTP | None = None
        self._used = 0.0
        #: Messages that were offered over this connection; after how many of them the server closes it, and until when
        #: that is remembered.
        self._offered = 0
        self._closes_after: int | None = None
        self._remembered_until = 0.0

    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        require_lines(envelope.content)
        try:
            return self._offer(envelope, permit, before_commit)
        except Lost:
            # Nothing has left. The server may have been waiting to close this connection, so a new one is tried.
            self._learn()
            try:
                return self._offer(envelope, permit, before_commit)
            except Lost as lost:
                raise Doubtful(str(lost)) from lost

    def _learn(self) -> None:
        """Remember a server that closes connections after so many messages, and close before it does."""
        if self._offered > 1:
            self._closes_after = self._offered - 1
            self._remembered_until = monotonic() + CLOSING_REMEMBERED

    def _offer(self, envelope: Envelope, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        connection = self._ready()
        self._offered += 1
        self._before_the_message(lambda: self._agree(connection, envelope))
        with ExitStack() as permitted:
            try:
                permitted.enter_context(permit())
            except BaseException:
                # Nothing of the message has left: the server forgets the envelope, and the connection stays.
                self._reset()
                raise
            self._before_the_message(lambda: self._announce(connection))
            try:
                before_commit()
            except BaseException:
                # The server waits for the message. Hanging up now, and only that, makes sure that it gets none.
                self._drop()
                raise
            return Receipt(self._host, self._deliver(connection, envelope))

    def _before_the_message(self, step: Callable[[], None]) -> None:
        """A step in which no part of the message leaves: whatever fails, it was not sent."""
        try:
            step()
        except TimeoutError as error:
            # Asked again at once, it would be as slow.
            self._drop()
            raise Doubtful("The mail server did not answer in time before the message.") from error
        except BROKEN as error:
            self._drop()
            raise Lost(f"The mail server broke off before the message ({type(error).__name__}).") from error
        except Lost:
            self._drop()
            raise
        except Failure:
            self._reset()
            raise

    def _agree(self, connection: smtplib.SMTP, envelope: Envelope) -> None:
        """MAIL and RCPT."""
        addresses = envelope.sender + envelope.recipient
        if not addresses.isprintable():
            raise Permanent("An address with a control character was not sent: correct it, then retry.")
        options = []
        if not envelope.content.isascii():
            if not connection.has_extn(EIGHTBITMIME):
                raise Unsuitable("The mail server does not take messages outside ASCII (RFC 6152).")
            options.append("BODY=8BITMIME")
        if not addresses.isascii():
            if not connection.has_extn(SMTPUTF8):
                raise Unsuitable("The mail server does not take addresses outside ASCII (RFC 6531).")
            options.append("SMTPUTF8")
        if connection.has_extn(SIZE):
            options.append(f"SIZE={len(envelope.content)}")
            most = connection.esmtp_features[SIZE]
            if most.isdecimal() and 0 < int(most) < len(envelope.content):
                raise Unsuitable(
                    f"The message has {len(envelope.content)} octets, and the mail server takes {int(most)} (RFC 1870)."
                )
        mail = " ".join([f"MAIL FROM:{smtplib.quoteaddr(envelope.sender)}", *options])
        rcpt = f"RCPT TO:{smtplib.quoteaddr(envelope.recipient)}"
        connection.command_encoding = "ascii" if addresses.isascii() else "utf-8"
        if connection.has_extn(PIPELINING):
            connection.send(f"{mail}\r\n{rcpt}\r\n")
            _require(*connection.getreply(), Step.SENDER, after=connection.getreply)
            _require(*connection.getreply(), Step.RECIPIENT)
        else:
            _require(*connection.docmd(mail), Step.SENDER)
            failpoint("smtp", "after_mail")
            _require(*connection.docmd(rcpt), Step.RECIPIENT)
        failpoint("smtp", "after_rcpt")

    def _announce(self, connection: smtplib.SMTP) -> None:
        """DATA: the server waits for the message when this returns."""
        code, answer = connection.docmd("DATA")
        if code != 354:
            _require(code, answer, Step.DATA)
            raise Lost(f"The mail server answered DATA with {code}.")
        failpoint("smtp", "after_data")

    def _deliver(self, connection: smtplib.SMTP, envelope: Envelope) -> str:
        """The message with its closing dot. Whatever breaks from here on may have broken behind it (E10)."""
        try:
            connection.send(dot_stuffed(envelope.content))
            failpoint("smtp", "after_dot")
            code, answer = connection.getreply()
        except BROKEN as error:
            self._drop()
            raise Ambiguous(type(error).__name__) from error
        self._used = monotonic()
        if not 200 <= code < 600 or 300 <= code < 400:
            self._drop()
            raise Ambiguous(f"an answer that is neither yes nor no, {code}")
        try:
            _require(code, answer, Step.MESSAGE)
        except Lost as lost:
            self._drop()
            raise Doubtful(str(lost)) from lost
        return quotable(code, answer, envelope.recipient)

    def _ready(self) -> smtplib.SMTP:
        closes = self._closes_after if monotonic() < self._remembered_until else None
        if self._connection is not None and closes is not None and self._offered >= closes:
            self.close()
        if self._connection is not None and monotonic() - self._used > IDLE:
            try:
                self._connection.noop()
            except BROKEN:
                self._drop()
        if self._connection is None:
            failpoint("smtp", "before_connect")
            try:
                self._connection = self._connect()
            except smtplib.SMTPAuthenticationError as error:
                raise Barred(
                    f"The mail server refused user or password of TENURE_MAIL_URL ({error.smtp_code})."
                ) from error
            except (smtplib.SMTPConnectError, smtplib.SMTPHeloError) as error:
                if error.smtp_code >= 500:
                    raise Barred(f"The mail server refuses to talk to us ({error.smtp_code}).") from error
                raise Unavailable(f"The mail server cannot be reached ({type(error).__name__}).") from error
            except BROKEN as error:
                raise Unavailable(f"The mail server cannot be reached ({type(error).__name__}).") from error
            self._offered = 0
            failpoint("smtp", "after_connect")
        self._used = monotonic()
        return self._connection

    def _connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        options: dict[str, Any] = {
            "local_hostname": self._helo or own_name(),
            "timeout": self._timeout,
            "source_address": (self._source, 0) if self._source else None,
        }
        if self._scheme == "smtps":
            made: smtplib.SMTP = EncryptedConnection(self._host, self._port, context=context, **options)
        else:
            made = Connection(self._host, self._port, **options)
        try:
            if self._scheme == "smtp+starttls":
                made.starttls(context=context)
            made.ehlo_or_helo_if_needed()
            if self._user:
                made.login(self._user, self._password)
        except BaseException:
            made.close()
            raise
        return made

    def _reset(self) -> None:
        if self._connection is not None:
            try:
                self._connection.rset()
            except BROKEN:
                self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def greet(self) -> list[str]:
        """Connect and log in; returns the server's extensions. Raises what smtplib raises."""
        self._drop()
        self._connection = self._connect()
        self._used = monotonic()
        return list(self._connection.esmtp_features)

    def close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.quit()
            except BROKEN:
                self._connection.close()
            self._connection = None


@cache
def own_name() -> str:
    """What HELO says where no name is set. Looked up once: smtplib asks the DNS for it at every connection."""
    name = socket.getfqdn()
    if "." in name:
        return name
    try:
        return f"[{socket.gethostbyname(socket.gethostname())}]"
    except OSError:
        return "[127.0.0.1]"


def dot_stuffed(content: bytes) -> bytes:
    """The message with its closing dot, lines that begin with a dot doubled (RFC 5321, 4.5.2)."""
    body = content.replace(b"\r\n.", b"\r\n..")
    if body.startswith(b"."):
        body = b"." + body
    return body + (b".\r\n" if body.endswith(b"\r\n") else b"\r\n.\r\n")


def _require(code: int, answer: bytes, step: Step, *, after: Callable[[], object] | None = None) -> None:
    """Return for 2xx. Raise Lost for 421 and for what is no reply, and otherwise what the refusal stands for.

    `after` is called before a refusal is raised, for a reply to a second command that is still to be read.
    """
    if 200 <= code < 300:
        return
    if code == 421 or not 400 <= code < 600:
        said = f"closing its door ({detail(code, answer)})" if code == 421 else "answering with what is no SMTP"
        raise Lost(f"The mail server is {said}.")
    if after is not None:
        after()
    raise refusal(code, answer, step)
