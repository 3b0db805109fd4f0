"""A party outside that holds records of accounts and erases them over HTTP, for tests: right, late, or badly (T21)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote

TOKEN = "the-token-of-the-list"
#: Instead of an answer: hang up, before or after it has erased; or say nothing until it is closed.
LOSE_BEFORE, LOSE_AFTER, SILENCE = "lose before", "lose after", "silence"


@dataclass
class ErasureServer:
    """`records` by the account's key; `script` holds what goes wrong with the next requests, one after the other."""

    records: dict[str, int] = field(default_factory=dict)
    script: list[str | tuple[int, bytes] | None] = field(default_factory=list)
    #: What erases takes its time: 202, and the records stay until somebody takes them out.
    late: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    _closing: Event = field(default_factory=Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/customers/{{account_ref}}/data"

    @property
    def erasures(self) -> list[str]:
        return [account for method, account in self.requests if method == "DELETE"]


@contextmanager
def erasure_server(**records: int) -> Iterator[ErasureServer]:
    server = ErasureServer(dict(records))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._go("GET")

        def do_DELETE(self) -> None:
            self._go("DELETE")

        def _go(self, method: str) -> None:
            first, customers, account, data = self.path.split("/")
            assert (first, customers, data) == ("", "customers", "data")
            account = unquote(account)
            server.requests.append((method, account))
            fault = server.script.pop(0) if server.script else None
            if isinstance(fault, tuple):
                return self._say(*fault)
            if fault in (LOSE_BEFORE, SILENCE):
                if fault == SILENCE:
                    server._closing.wait(30)
                self.close_connection = True
                return None
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self._say(401, b"")
            if method == "GET":
                return self._say(200, json.dumps({"records": server.records.get(account, 0)}).encode())
            if not server.late:
                server.records.pop(account, None)
            if fault == LOSE_AFTER:
                self.close_connection = True
                return None
            return self._say(202 if server.late else 204, b"")

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            if 300 <= status < 400:
                self.send_header("Location", content.decode())
            self.end_headers()
            self.wfile.write(content if status != 204 else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.port = listening.server_address[1]
        thread = Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server._closing.set()
            listening.shutdown()
            thread.join()
