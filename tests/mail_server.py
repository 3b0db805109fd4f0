"""A mail server for tests that does at each phase of SMTP what its script says, and counts what reaches it."""

from __future__ import annotations

import email
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.policy import SMTP
from threading import Event, Lock, Thread
from typing import Any

DROP = "drop"
SILENCE = "silence"
Reply = str | Callable[[bytes], str]


@dataclass
class MailServer:
    """A mail server that answers each command as its script says, then as a good server does.

    The phases are connect, EHLO, MAIL, RCPT, DATA, and DOT when it has the whole message. An answer may be DROP: it
    hangs up without one; or SILENCE.
    """

    script: dict[str, list[Reply]] = field(default_factory=dict)
    #: Every message that was handed over whole, accepted or not; those of them that were accepted.
    contents: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    extensions: Sequence[str] = ("8BITMIME", "SMTPUTF8")
    _closing: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _open: list[socket.socket] = field(default_factory=list)

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
                elif verb == "DATA":
                    if self._answer(client, verb, "354 go on").startswith("354"):
                        self._take(client, lines)
                else:
                    self._answer(client, verb, "250 2.0.0 ok")
        end(client)

    def _take(self, client: socket.socket, lines: Any) -> None:
        content = b""
        while (line := lines.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            content += line.removeprefix(b".")
        self.contents.append(content)
        self._answer(client, "DOT", "250 2.0.0 accepted", content)

    def _answer(self, client: socket.socket, phase: str, good: str, content: bytes = b"") -> str:
        with self._lock:
            planned = self.script.get(phase)
            reply = planned.pop(0) if planned else good
        if callable(reply):
            reply = reply(content)
        if reply == SILENCE:
            self._closing.wait(20)
        if reply in (DROP, SILENCE):
            raise ConnectionError
        if phase == "DOT" and reply.startswith("250"):
            self.accepted.append(content)
        client.sendall(f"{reply}\r\n".encode())
        return reply


def end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
