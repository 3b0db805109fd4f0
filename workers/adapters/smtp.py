"""Mail over SMTP (RFC 5321), one connection for many messages (E9, E10)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from time import monotonic
from urllib.parse import unquote, urlsplit

from tasks.failures import Failure, Permanent, Transient, Unavailable
from tasks.ports import Ambiguous, Envelope

#: Seconds for any one answer of the server.
TIMEOUT = 30.0
#: Seconds after which an idle connection is asked whether it still lives before a message is entrusted to it.
IDLE = 10.0
#: RFC 6531: without it, an address or header outside ASCII cannot be sent.
SMTPUTF8 = "smtputf8"


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

    def send(self, envelope: Envelope, *, before_commit: Callable[[], None]) -> str:
        connection = self._ready()
        try:
            self._offer(connection, envelope)
        except (OSError, smtplib.SMTPException) as error:
            self._drop()
            raise Unavailable(f"The mail server broke off before the message ({type(error).__name__}).") from error
        except Failure:
            self._reset()
            raise
        try:
            before_commit()
        except BaseException:
            # The server waits for the message. Hanging up now, and only that, makes sure that it gets none.
            self._drop()
            raise
        try:
            connection.send(dot_stuffed(envelope.content))
            code, answer = connection.getreply()
        except (OSError, smtplib.SMTPException) as error:
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

    def _offer(self, connection: smtplib.SMTP, envelope: Envelope) -> None:
        """MAIL, RCPT and DATA: the server has agreed to take the message when this returns."""
        options = ["BODY=8BITMIME"] if connection.has_extn("8bitmime") else []
        if not (envelope.recipient + envelope.sender).isascii():
            if not connection.has_extn(SMTPUTF8):
                raise Permanent("The mail server does not take addresses outside ASCII (RFC 6531).")
            options.append("SMTPUTF8")
            connection.command_encoding = "utf-8"
        else:
            connection.command_encoding = "ascii"
        _require(*connection.mail(envelope.sender, options), "the sender")
        _require(*connection.rcpt(envelope.recipient), "the recipient")
        code, answer = connection.docmd("DATA")
        if code != 354:
            _require(code, answer, "a message")
            raise Transient(f"The mail server answered DATA with {code}.")

    def _ready(self) -> smtplib.SMTP:
        if self._connection is not None and monotonic() - self._used > IDLE:
            try:
                self._connection.noop()
            except (OSError, smtplib.SMTPException):
                self._drop()
        if self._connection is None:
            try:
                self._connection = self._connect()
            except smtplib.SMTPAuthenticationError as error:
                raise Unavailable("The mail server refused user or password of TENURE_SMTP_URL.") from error
            except (OSError, smtplib.SMTPException) as error:
                raise Unavailable(f"The mail server cannot be reached ({type(error).__name__}).") from error
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
            except (OSError, smtplib.SMTPException):
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
            except (OSError, smtplib.SMTPException):
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
