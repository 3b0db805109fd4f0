"""Mail over SMTP (RFC 5321), one connection for many messages (E9, E10)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from urllib.parse import unquote, urlsplit

from tasks.engine.failpoints import failpoint
from tasks.failures import Failure, Permanent, Transient, Unavailable
from tasks.ports.context import Ambiguous, Envelope, Permit, Receipt

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

#: What a connection that breaks off looks like.
BROKEN = (OSError, smtplib.SMTPException)


class SMTPMailer:
    """`smtp://` in the clear (local only), `smtp+starttls://` or `smtps://`, with user and password where given."""

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(address)
        self._scheme = parts.scheme
        self._host = parts.hostname or ""
        self._port = parts.port or {"smtps": 465, "smtp+starttls": 587}.get(parts.scheme, 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password or "")
        self._timeout = timeout
        self._connection: smtplib.SMTP | None = None
        self._used = 0.0

    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        connection = self._ready()
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
            return Receipt(self._host, self._deliver(connection, envelope.content))

    def _before_the_message(self, step: Callable[[], None]) -> None:
        """A step in which no part of the message leaves: whatever fails, it was not sent."""
        try:
            step()
        except BROKEN as error:
            self._drop()
            raise Unavailable(f"The mail server broke off before the message ({type(error).__name__}).") from error
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
                raise Permanent("The mail server does not take messages outside ASCII (RFC 6152).")
            options.append("BODY=8BITMIME")
        if not addresses.isascii():
            if not connection.has_extn(SMTPUTF8):
                raise Permanent("The mail server does not take addresses outside ASCII (RFC 6531).")
            options.append("SMTPUTF8")
        mail = " ".join([f"MAIL FROM:{smtplib.quoteaddr(envelope.sender)}", *options])
        rcpt = f"RCPT TO:{smtplib.quoteaddr(envelope.recipient)}"
        connection.command_encoding = "ascii" if addresses.isascii() else "utf-8"
        if connection.has_extn(PIPELINING):
            connection.send(f"{mail}\r\n{rcpt}\r\n")
            answers = [connection.getreply(), connection.getreply()]
            _require(*answers[0], "the sender")
            _require(*answers[1], "the recipient")
        else:
            _require(*connection.docmd(mail), "the sender")
            failpoint("smtp", "after_mail")
            _require(*connection.docmd(rcpt), "the recipient")
        failpoint("smtp", "after_rcpt")

    def _announce(self, connection: smtplib.SMTP) -> None:
        """DATA: the server waits for the message when this returns."""
        code, answer = connection.docmd("DATA")
        if code != 354:
            _require(code, answer, "a message")
            raise Transient(f"The mail server answered DATA with {code}.")
        failpoint("smtp", "after_data")

    def _deliver(self, connection: smtplib.SMTP, content: bytes) -> str:
        """The message with its closing dot. Whatever breaks from here on may have broken behind it (E10)."""
        try:
            connection.send(dot_stuffed(content))
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
            _require(code, answer, "the message")
        except Unavailable:
            self._drop()
            raise
        return f"{code} {answer.decode(errors='replace')}"

    def _ready(self) -> smtplib.SMTP:
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
                raise Unavailable("The mail server refused user or password of TENURE_MAIL_URL.") from error
            except BROKEN as error:
                raise Unavailable(f"The mail server cannot be reached ({type(error).__name__}).") from error
            failpoint("smtp", "after_connect")
        self._used = monotonic()
        return self._connection

    def _connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self._scheme == "smtps":
            made: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout, context=context)
        else:
            made = smtplib.SMTP(self._host, self._port, timeout=self._timeout)
        if self._scheme == "smtp+starttls":
            made.starttls(context=context)
        made.ehlo_or_helo_if_needed()
        if self._user:
            made.login(self._user, self._password)
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


def dot_stuffed(content: bytes) -> bytes:
    """The message with its closing dot, lines that begin with a dot doubled (RFC 5321, 4.5.2)."""
    body = content.replace(b"\r\n.", b"\r\n..")
    if body.startswith(b"."):
        body = b"." + body
    return body + (b".\r\n" if body.endswith(b"\r\n") else b"\r\n.\r\n")


def _require(code: int, answer: bytes, what: str) -> None:
    """2xx goes on, 421 is the server's own trouble, other 4xx is tried again, 5xx is not (E11).

    The server's words are left out: they may quote the address.
    """
    if 200 <= code < 300:
        return
    status = answer.split(b" ", 1)[0].decode("ascii", "replace")
    detail = f"{code} {status}" if status.count(".") == 2 else str(code)
    if code == 421 or code < 0:
        raise Unavailable(f"The mail server is closing its door ({detail}).")
    if code >= 500:
        raise Permanent(f"The mail server refused {what} for good ({detail}).")
    raise Transient(f"The mail server does not take {what} now ({detail}).")
