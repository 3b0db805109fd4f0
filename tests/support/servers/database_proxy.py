"""PostgreSQL behind a proxy that loses a COMMIT, or the answer to it (W3)."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread

from tests.support.servers.mail_server import end


@dataclass
class DatabaseProxy:
    """A PostgreSQL proxy that breaks a connection at COMMIT: before the server sees it, or its answer is seen."""

    host: str
    port: int
    #: "lost commit" and "lost answer" are what happens to the COMMIT that `countdown` comes to zero at.
    mode: str = "pass"
    countdown: int = 0
    broken: int = 0
    #: While it is, connections are closed as they are made.
    away: bool = False
    _lock: Lock = field(default_factory=Lock)
    _open: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> DatabaseProxy:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # `shutdown` wakes the thread that waits in accept; `close` alone does not.
        for each in [self._listening, *self._open]:
            end(each)

    def arm(self, mode: str, nth: int = 1) -> None:
        self.mode, self.countdown = mode, nth

    def go_away(self) -> None:
        self.away = True
        for each in self._open:
            end(each)

    def come_back(self) -> None:
        self.away = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection((self.host, self.port))
            except OSError:
                return
            if self.away:
                end(client)
                end(server)
                continue
            self._open += [client, server]
            for source, sink, is_client in ((client, server, True), (server, client, False)):
                Thread(target=self._pump, args=(source, sink, is_client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                # The simple query of psycopg, and the server's CommandComplete.
                lost = (
                    (self.mode == "lost commit" and b"COMMIT\0" in data)
                    if is_client
                    else (self.mode == "lost answer" and b"COMMIT\0" in data)
                )
                if lost and self._last():
                    self.broken += 1
                    break
                sink.sendall(data)
        end(source)
        end(sink)

    def _last(self) -> bool:
        with self._lock:
            self.countdown -= 1
            if self.countdown == 0:
                self.mode = "pass"
                return True
            return False
