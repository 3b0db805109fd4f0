"""A connection to a mail server whose replies are bounded in time and size (RFC 5321, 4.5.3).

smtplib waits for each piece of a reply anew, and reads as many lines as the server likes: a server that sends one octet
a second, or a reply without end, would hold a worker for ever.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from time import monotonic
from typing import Any, Final

#: Lines of one reply. The longest in use is that to EHLO, of some 20 lines.
MOST_LINES: Final = 100


class _Replies:
    """What smtplib reads lines from: one reply has `timeout` seconds and `MOST_LINES` lines in all."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._socket = connection
        self._timeout = timeout
        self._buffer = b""
        self.begin()

    def begin(self) -> None:
        self._ends = monotonic() + self._timeout
        self._lines = 0

    def readline(self, size: int) -> bytes:
        """One line, or `size` octets of one; nothing where the server hung up. Raises TimeoutError or OSError."""
        self._lines += 1
        if self._lines > MOST_LINES:
            message = "a reply without end"
            raise ConnectionError(message)
        while b"\n" not in self._buffer[:size] and len(self._buffer) < size:
            left = self._ends - monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                received = self._socket.recv(8192)
            finally:
                self._socket.settimeout(self._timeout)
            if not received:
                break
            self._buffer += received
        end = self._buffer.find(b"\n", 0, size)
        end = min(size, len(self._buffer)) if end < 0 else end + 1
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        return line

    def close(self) -> None:
        """The socket is closed by its owner."""


class Connection(smtplib.SMTP):
    """smtplib's connection with bounded replies."""

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file: Any = _Replies(self.sock, float(self.timeout))
        if isinstance(self.file, _Replies):
            self.file.begin()
        return super().getreply()


class EncryptedConnection(Connection):
    """The same over TLS from its first octet on."""

    default_port = smtplib.SMTP_SSL_PORT

    def __init__(self, *arguments: Any, context: ssl.SSLContext, **options: Any) -> None:
        self._context = context
        super().__init__(*arguments, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        return self._context.wrap_socket(plain, server_hostname=host)
