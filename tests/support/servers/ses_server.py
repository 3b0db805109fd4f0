"""A small Amazon SES for tests: what boto3 really sends, and answers by a script (E9).

It speaks version 2 of the API as far as `SendEmail` and `GetAccount` go. It checks what SES checks: a signature, a raw
message that is base64, tags of the permitted characters; and like SES it puts a Message-ID of its own into what it
delivers.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

#: Instead of an answer: hang up, before or after the message was accepted.
DROP = "drop"
ACCEPT_AND_DROP = "accept and drop"
#: Instead of an answer: silence.
SILENCE = "silence"
GARBAGE = "garbage"

Reply = str | tuple[int, str]
_TAG_PART = re.compile(r"[A-Za-z0-9_-]{1,256}")


@dataclass(frozen=True)
class Accepted:
    id: str
    request: dict[str, Any]
    content: bytes


@dataclass
class SESServer:
    """Its `script` holds answers to come: `(status, code)` of an error, or one of the words above."""

    script: list[Reply] = field(default_factory=list)
    #: Called with each request before it is answered.
    watch: Callable[[], None] = lambda: None
    #: Every message that came whole, and those that were accepted.
    contents: list[bytes] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    connections: int = 0
    _closing: Event = field(default_factory=Event)

    def __enter__(self) -> SESServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_POST(self) -> None:
                server._post(self)

            def do_GET(self) -> None:
                assert self.path == "/v2/email/account"
                _answer(self, 200, {"SendingEnabled": True, "SendQuota": {"MaxSendRate": 14.0}})

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self.url = f"ses://KEY:SECRET@eu-central-1?configuration_set=tenure&endpoint={self.endpoint}"
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert handler.path == "/v2/email/outbound-emails"
        signed = handler.headers["Authorization"]
        assert signed.startswith("AWS4-HMAC-SHA256 Credential=KEY/"), "SES refuses what is not signed"
        assert "/eu-central-1/ses/aws4_request" in signed
        content = base64.b64decode(body["Content"]["Raw"]["Data"], validate=True)
        for tag in body.get("EmailTags", []):
            assert _TAG_PART.fullmatch(tag["Name"])
            assert _TAG_PART.fullmatch(tag["Value"])
        self.contents.append(content)
        self.watch()
        reply = self.script.pop(0) if self.script else ""
        if reply == SILENCE:
            self._closing.wait(20)
            return
        if isinstance(reply, tuple):
            status, code = reply
            # The words of SES quote addresses.
            _answer(handler, status, {"message": "jane@customer.example is refused"}, {"x-amzn-ErrorType": code})
            return
        if reply == DROP:
            _hang_up(handler)
            return
        made = Accepted(f"0107-{len(self.accepted):04}-000000", body, content)
        self.accepted.append(made)
        if reply == ACCEPT_AND_DROP:
            _hang_up(handler)
        elif reply == GARBAGE:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnonsense")
        else:
            _answer(handler, 200, {"MessageId": made.id})


def _answer(
    handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> None:
    raw = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)
