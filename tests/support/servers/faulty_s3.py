"""An HTTP proxy before an S3 server that can fail in the ways that S3 does (W18): 500s, slow answers, cut connections.

A proxy and not a fake: what it lets through is stored by the real server.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What happens to the requests one after the other, again and again.
REFUSED = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>made up</Message></Error>'
#: Headers that belong to one connection and not to the request.
_OWN = frozenset({"connection", "keep-alive", "transfer-encoding"})


@dataclass
class Faults:
    """`ways`, in turn: `pass`, `refuse` (500), `slow`, `cut` (before the store), `cut_after` (it is stored)."""

    ways: Iterator[str] = field(default_factory=lambda: itertools.cycle(["pass"]))
    met: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, *ways: str) -> None:
        with self.lock:
            self.ways = itertools.cycle(ways)

    def next(self) -> str:
        with self.lock:
            way = next(self.ways)
            self.met[way] += 1
            return way


@contextlib.contextmanager
def faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy before `endpoint`, for as long as the block lasts."""
    target = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            way = faults.next()
            if way == "cut":
                self._cut()
                return
            if way == "slow":
                time.sleep(1.5)
            if way == "refuse":
                self._answer(500, [("Content-Type", "application/xml")], REFUSED)
                return
            connection = HTTPConnection(str(target.hostname), int(target.port or 80), timeout=30)
            try:
                # As it came, Host and all: the signature covers it.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _OWN:
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                if way == "cut_after":
                    self._cut()
                    return
                self._answer(answer.status, answer.getheaders(), content)
            finally:
                connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - the names that http.server looks for

        def _cut(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _OWN | {"content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is for its failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
