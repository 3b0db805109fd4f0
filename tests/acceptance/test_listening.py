"""Every route of every port, with and without credentials, compared with docs/security.md (W12, W53)."""

from __future__ import annotations

import base64
import re
import socket
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from flower.urls import handlers

from tests.support.servers.processes import Processes, Running, eventually

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
#: The routes of Flower that answer to anybody. Its static files and the page for unknown addresses say nothing of us.
OPEN = {"/healthcheck", "/metrics", "/static/(.*)", "/login/?", "/logout", ".*"}
METHODS = ("GET", "POST")


def flower_routes() -> list[str]:
    """As Flower declares them, without those that are added by a later version unseen."""
    return [each[0] if isinstance(each, tuple) else each.regex.pattern.removesuffix("$") for each in handlers]


def status(port: int, path: str, *, method: str = "GET", user: str | None = None) -> int:
    headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user is not None else {}
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=b"" if method == "POST" else None, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def listening(running: Running) -> set[int]:
    """The ports on which a process and its children listen."""
    process = psutil.Process(running.pid)
    return {
        connection.laddr.port
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def example(route: str) -> str:
    return re.sub(r"\(\.[+*]\)", "x", route).removesuffix("/?").rstrip("$")


@pytest.mark.timeout(180)
def test_flower_answers_nobody_without_a_password(processes: Processes) -> None:
    running = processes.flower()
    environment = processes.environment()
    port = int(environment["TENURE_FLOWER_PORT"])
    assert listening(running) == {port}
    user = f"{environment['TENURE_FLOWER_USER']}:{environment['TENURE_FLOWER_PASSWORD']}"
    closed = [route for route in flower_routes() if route not in OPEN]
    assert len(closed) > 20
    for route in closed:
        for method in METHODS:
            for credentials in (None, "tenure:wrong", ":"):
                code = status(port, example(route), method=method, user=credentials)
                # 405: Flower refuses the method before it asks who calls.
                assert code in {401, 405}, f"{method} {route} answers {code} to {credentials}"
    assert status(port, "/healthcheck") == 200
    assert status(port, "/workers", user=user) == 200
    text = SECURITY.read_text(encoding="utf-8")
    assert "`/healthcheck`" in text
    assert "`/metrics`" in text


@pytest.mark.timeout(180)
def test_worker_relay_and_beat_listen_on_nothing(processes: Processes) -> None:
    started = [processes.worker(), processes.relay(), processes.beat()]
    eventually(lambda: len(started[0].children()) >= 2, "the pool is there")
    for running in started:
        assert listening(running) == set(), running.name


@pytest.mark.timeout(180)
def test_the_download_page_answers_to_no_path_but_its_own(processes: Processes) -> None:
    running = processes.download_page()
    (port,) = listening(running)
    for path in ("/", "/exports/", "/exports/none", "/docs", "/openapi.json", "/metrics", "/exports/-/none/record.zip"):
        for method in METHODS:
            assert status(port, path, method=method) in {404, 405}, f"{method} {path}"


@pytest.mark.timeout(180)
def test_metrics_are_on_loopback_and_count(processes: Processes) -> None:
    running = processes.metrics()
    (port,) = listening(running)
    assert status(port, "/metrics") == 200
    with socket.socket() as other:
        # Bound to loopback alone, another address of the machine has the port free.
        other.bind(("127.0.0.2", port))
