"""A mail server for tests that does at each phase of SMTP what its script says, and counts what reaches it."""

from __future__ import annotations

import email
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.policy import SMTP
from threading import Event, Lock, Thread, local
from typing import Any

DROP = "drop"
SILENCE = "silence"


@dataclass(frozen=True)
class LastWords:
    """An answer after which the server hangs up; None stands for what a good server says."""

    reply: str | None = None


#: Octets are sent as they are, without a line break.
Reply = str | bytes | LastWords | Callable[[bytes], str]


@dataclass
class MailServer:
    """A mail server that answers each command as its script says, then as a good server does.

    The phases are connect, EHLO, MAIL, RCPT, DATA, CONTENT when it has the first line of the message, and DOT when it
    has all of it. An answer may be DROP: it hangs up without one; or SILENCE.
    """

    script: dict[str, list[Reply]] = field(default_factory=dict)
    #: By recipient and phase: what it always answers where the script says nothing.
    recipients: dict[str, dict[str, Reply]] = field(default_factory=dict)
    #: After so many messages of a connection, MAIL is answered by 421.
    closes_after: int | None = None
    #: Every message that was handed over whole, accepted or not; those of them that were accepted.
    contents: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    extensions: Sequence[str] = ("8BITMIME", "SMTPUTF8")
    _closing: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _open: list[socket.socket] = field(default_factory=list)
    _here: local = field(default_factory=local)

    def __enter__(self) -> MailServer:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"smtp://127.0.0.1:{self._listening.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for each in [self._listening, *self._open]:
            end(each)

    def copies(self) -> Counter[str]:
        """How often each message was handed over, by its Message-ID."""
        return Counter(str(email.message_from_bytes(content, policy=SMTP)["Message-ID"]) for content in self.contents)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                self._open.append(client)
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._here.recipient, messages = "", 0
        with suppress(OSError, ConnectionError), client.makefile("rb") as lines:
            self._answer(client, "connect", "220 scripted")
            while line := lines.readline():
                verb = line.split()[0].decode().upper() if line.split() else ""
                self.commands.append(line.decode().strip())
                if verb == "EHLO":
                    good = "\r\n".join(["250-scripted", *(f"250-{each}" for each in self.extensions), "250 HELP"])
                    self._answer(client, verb, good)
                elif verb == "QUIT":
                    self._answer(client, verb, "221 bye")
                    break
                elif verb == "MAIL" and messages == self.closes_after:
                    client.sendall(b"421 4.4.5 too many messages on this connection\r\n")
                    break
                elif verb == "DATA":
                    messages += 1
                    if self._answer(client, verb, "354 go on").startswith("354"):
                        self._take(client, lines)
                else:
                    if verb == "RCPT":
                        self._here.recipient = line.decode().partition("<")[2].partition(">")[0]
                    self._answer(client, verb, "250 2.0.0 ok")
        end(client)

    def _take(self, client: socket.socket, lines: Any) -> None:
        content = b""
        while (line := lines.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            if not content and self._answer(client, "CONTENT", ""):
                # As servers do that refuse in the middle: the rest is read, and goes nowhere.
                while lines.readline() not in (b".\r\n", b""):
                    pass
                raise ConnectionError
            content += line.removeprefix(b".")
        self.contents.append(content)
        self._answer(client, "DOT", "250 2.0.0 accepted", content)

    def _answer(self, client: socket.socket, phase: str, good: str, content: bytes = b"") -> str:
        with self._lock:
            planned = self.script.get(phase)
            reply = planned.pop(0) if planned else self.recipients.get(self._here.recipient, {}).get(phase, good)
        last = isinstance(reply, LastWords)
        if isinstance(reply, LastWords):
            reply = good if reply.reply is None else reply.reply
        if callable(reply):
            reply = reply(content)
        if reply == SILENCE:
            self._closing.wait(20)
        if reply in (DROP, SILENCE):
            raise ConnectionError
        if isinstance(reply, bytes):
            whole, written = reply.decode("latin-1"), reply
        else:
            whole, written = reply, f"{reply}\r\n".encode() if reply else b""
        # Of several lines, the last one counts, and a line that does not end is no answer yet.
        if phase == "DOT" and whole.strip().split("\n")[-1].startswith("250 "):
            self.accepted.append(content)
        client.sendall(written)
        if last:
            raise ConnectionError
        return whole


def end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
