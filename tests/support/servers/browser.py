"""A headless Chromium with its network watched, driven over a pipe by the DevTools protocol (no port, no library).

Every request that a page makes is reported by the browser; whatever reaches the network all the same, a preconnect for
instance, ends at a proxy of ours that answers nothing and writes it down.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.time.deadlines import deadline

#: Seconds for one answer of the browser.
PATIENCE = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the pages are our own, and containers have none
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-domain-reliability",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--proxy-bypass-list=<-loopback>",
)


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page of one browser."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, of: int, reached: list[str], place: Path) -> None:
        self._process, self._to, self._of = process, to, of
        self._selector = selectors.DefaultSelector()
        self._selector.register(of, selectors.EVENT_READ)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        #: First lines of whatever came to the proxy.
        self.reached = reached
        #: Addresses that the page asked for.
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        # A page with an address, from which relative ones would be found.
        place.write_text("<!DOCTYPE html>", encoding="utf-8")
        self._frame = self.call("Page.navigate", url=place.as_uri())["frameId"]
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, html: str) -> None:
        """Show this page, as one that lies beside the profile."""
        self.requested = []
        self.call("Page.setDocumentContent", frameId=self._frame, html=html)

    def look(self, *, width: int, dark: bool) -> None:
        """Show the page at this width, in CSS pixels, and in one of the colour schemes."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _read(self) -> dict[str, Any]:
        ends = time.monotonic() + deadline(PATIENCE)
        while b"\0" not in self._buffer:
            if not self._selector.select(max(0.0, ends - time.monotonic())):
                raise TimeoutError(f"the browser said nothing for {PATIENCE} s")
            chunk = os.read(self._of, 1 << 20)
            if not chunk:
                raise ConnectionError(f"the browser ended with {self._process.wait()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(line)
        if said.get("method") == "Network.requestWillBeSent":
            self.requested.append(said["params"]["request"]["url"])
        return said


@contextlib.contextmanager
def browser(program: str, folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; ended with the block."""
    commands, answers = os.pipe(), os.pipe()
    with _proxy() as (port, reached):
        process = subprocess.Popen(
            # The protocol is spoken over file descriptors 3 and 4.
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{commands[0]} 4>&{answers[1]}', program, *_FLAGS),
                *(f"--user-data-dir={folder}", f"--proxy-server=http://127.0.0.1:{port}", "about:blank"),
            ],
            pass_fds=(commands[0], answers[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Browser(process, commands[1], answers[0], reached, folder / "page.html")
        finally:
            # It ends when nobody speaks to it any more.
            os.close(commands[1])
            try:
                process.wait(deadline(10))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
            os.close(answers[0])


@contextlib.contextmanager
def _proxy() -> Iterator[tuple[int, list[str]]]:
    reached: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    with contextlib.suppress(OSError):
                        reached.append(connection.recv(500).partition(b"\r\n")[0].decode("latin-1"))

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], reached
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
