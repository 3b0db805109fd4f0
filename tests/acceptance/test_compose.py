"""The app services of docker-compose.yml, each by its own command and its own environment, as real processes.

What a container adds (a read-only disk, few rights) is checked in `tests/architecture/test_compose_file.py`; that a
command works with what the file gives it, gets ready, and ends within its time on SIGTERM, is checked here.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import psycopg
import pytest
import redis

from models.base.unit_of_work import Database
from models.schema import migrations
from scheduler.timetable import TIMETABLE
from tests.architecture.repository import app_services, filled
from tests.conftest import drop
from tests.support.time.deadlines import deadline
from workers.celery.routing import ROUTES

#: Seconds: the longest that a service may take to be ready, on a busy machine.
PATIENCE = 60.0
#: Compose's own, where a service names none.
DEFAULT_GRACE = 10.0
BIN = Path(sys.executable).parent
#: A database of the broker to ourselves.
BROKER_DATABASE = "7"


@pytest.fixture
def broker(servers: dict[str, str]) -> Iterator[str]:
    address = servers["TENURE_BROKER_URL"].rpartition("/")[0] + f"/{BROKER_DATABASE}"
    client = redis.Redis.from_url(address)
    client.flushdb()
    yield address
    client.flushdb()
    client.close()


@pytest.fixture
def addresses(servers: dict[str, str], database_url: str, broker: str) -> dict[str, str]:
    """What takes the place of the addresses inside the compose network."""
    there = {
        name: servers[name]
        for name in ("TENURE_S3_ENDPOINT", "TENURE_S3_ACCESS_KEY", "TENURE_S3_SECRET_KEY", "TENURE_MAIL_URL")
    }
    return there | {
        "TENURE_DATABASE_URL": database_url,
        "TENURE_BROKER_URL": broker,
        "TENURE_FLOWER_ADDRESS": "127.0.0.1",
        "TENURE_FLOWER_PORT": str(free_port()),
        "TENURE_METRICS_ADDRESS": "127.0.0.1",
        "TENURE_METRICS_PORT": str(free_port()),
    }


@dataclass(frozen=True)
class Service:
    name: str
    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    grace: float

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        ends = time.monotonic() + deadline(PATIENCE)
        while not ready():
            assert self.process.poll() is None, f"it ended before it was ready:\n{self.said()}"
            assert time.monotonic() < ends, f"it was not ready in {PATIENCE:.0f} s:\n{self.said()}"
            time.sleep(0.1)

    def is_healthy(self) -> bool:
        """Ask as compose does, with our ports in the place of those that it has there."""
        how, *command = app_services()[self.name]["healthcheck"]["test"]
        assert how == "CMD"
        for there, setting in (("5555", "TENURE_FLOWER_PORT"), ("9750", "TENURE_METRICS_PORT")):
            here = self.environment.get(setting, there)
            command = [word.replace(f":{there}/", f":{here}/") for word in command]
        asked = subprocess.run(
            [f"{BIN}/{command[0]}", *command[1:]],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            check=False,
            timeout=deadline(PATIENCE),
        )
        return asked.returncode == 0

    def stop(self) -> None:
        """As `docker compose stop` does; it must end by itself, in time, without children or files left."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {self.grace:.0f} s of SIGTERM:\n{self.said()}")
        assert self.process.returncode in {0, -signal.SIGTERM}, self.said()
        assert "Traceback" not in self.said()
        assert not group_lives(self.process.pid), "it left children behind"
        assert list(self.folder.iterdir()) == [], "its disk is read-only in compose"


class StartService(Protocol):
    def __call__(self, name: str, without: str = "") -> Service:
        """Start a service of the compose file, but for one setting."""


@pytest.fixture
def start(addresses: dict[str, str], tmp_path: Path) -> Iterator[StartService]:
    started: list[Service] = []

    def start_service(name: str, without: str = "") -> Service:
        described = app_services()[name]
        environment = {key: value for key, value in environment_of(name, addresses).items() if key != without}
        folder = tmp_path / name
        folder.mkdir()
        log = tmp_path / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                described["command"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        grace = float(str(described.get("stop_grace_period", DEFAULT_GRACE)).removesuffix("s"))
        service = Service(name, process, environment, folder, log, grace)
        started.append(service)
        return service

    yield start_service
    for service in started:
        if group_lives(service.process.pid):
            # The group is the one that we made for it.
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait(deadline(10))


def environment_of(name: str, addresses: Mapping[str, str]) -> dict[str, str]:
    """The environment of the compose file alone, with the image's PATH, and our servers' addresses in their place."""
    passwords: dict[str, str] = defaultdict(lambda: "a-password-of-the-test")
    given = {key: filled(str(value), passwords) for key, value in app_services()[name]["environment"].items()}
    path = f"{BIN}:/usr/bin:/bin"
    return (
        {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        | given
        | {key: value for key, value in addresses.items() if key in given or key == "TENURE_METRICS_PORT"}
    )


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def text_of(address: str) -> str:
    with urllib.request.urlopen(address, timeout=deadline(20)) as answer:  # noqa: S310 - our own, on loopback
        return str(answer.read().decode())


def status_of(address: str, credentials: str | None = None) -> int:
    request = urllib.request.Request(address)  # noqa: S310 - our own, on loopback
    if credentials is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            code: int = answer.status
            return code
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except OSError:
        return 0


def test_migrate_brings_an_empty_database_to_the_schema_and_ends(
    start: StartService, addresses: dict[str, str], template: str
) -> None:
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        addresses["TENURE_DATABASE_URL"] = address = template.rpartition("/")[0] + f"/{name}"
        for _ in range(2):
            service = start("migrate")
            assert service.process.wait(deadline(PATIENCE)) == 0, service.said()
            assert "newest schema" in service.said()
            service.folder.rmdir()
        database = Database(address, pool_size=1)
        with database.connection() as opened:
            assert migrations.missing(opened) is None
        database.engine.dispose()
    finally:
        with psycopg.connect(template, autocommit=True) as connection:
            drop(connection, name)


def test_the_worker_is_healthy_and_stops(start: StartService) -> None:
    """The health check of the compose file, while the process works (W15)."""
    worker = start("worker")

    worker.wait_until(lambda: re.search(r"\bready\b", worker.said()) is not None)
    worker.wait_until(worker.is_healthy)
    worker.stop()
    assert "Warm shutdown" in worker.said()


def test_beat_ticks_and_stops(start: StartService, broker: str) -> None:
    client = redis.Redis.from_url(broker)
    beat = start("beat")
    # With no worker to take them, one message for each tick waits in its queue.
    ticks = Counter(ROUTES[entry.task] for entry in TIMETABLE)
    beat.wait_until(lambda: {queue: client.llen(queue) for queue in ticks} == ticks)
    client.close()
    beat.wait_until(beat.is_healthy)
    beat.stop()


def test_the_relay_listens_wakes_and_stops(start: StartService, broker: str, database_url: str) -> None:
    client = redis.Redis.from_url(broker)
    relay = start("relay")
    relay.wait_until(lambda: "relay.listening" in relay.said())
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', 'Acme', 'EUR')")
        connection.execute("""SELECT tenure.request('emails.send_account_set_up', '{"account": "acme"}')""")
    relay.wait_until(lambda: client.llen("lifecycle") == 1)
    client.close()
    relay.wait_until(relay.is_healthy)
    relay.stop()


def test_flower_asks_for_its_password_and_stops(start: StartService) -> None:
    flower = start("flower")
    address = f"http://127.0.0.1:{flower.environment['TENURE_FLOWER_PORT']}"
    user, password = flower.environment["TENURE_FLOWER_USER"], flower.environment["TENURE_FLOWER_PASSWORD"]
    flower.wait_until(flower.is_healthy)
    assert status_of(f"{address}/workers") == 401
    assert status_of(f"{address}/api/workers") == 401
    assert status_of(f"{address}/workers", f"{user}:wrong") == 401
    assert status_of(f"{address}/workers", f"{user}:{password}") == 200
    flower.stop()


def test_metrics_are_there_while_postgresql_is_and_say_when_it_is_not(
    start: StartService, database_url: str, template: str
) -> None:
    metrics = start("metrics")
    metrics.wait_until(metrics.is_healthy)
    address = f"http://127.0.0.1:{metrics.environment['TENURE_METRICS_PORT']}/metrics"
    name = database_url.rpartition("/")[2]
    with psycopg.connect(template, autocommit=True) as connection:
        assert "tenure_database_up 1.0" in text_of(address)
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            assert "tenure_database_up 0.0" in text_of(address)
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert "tenure_database_up 1.0" in text_of(address)
    metrics.stop()


@pytest.mark.parametrize("name", ["worker", "beat", "relay", "metrics", "flower", "migrate"])
def test_a_setting_that_is_missing_is_one_clear_line(name: str, start: StartService) -> None:
    service = start(name, without="TENURE_BROKER_URL")
    assert service.process.wait(deadline(PATIENCE)) != 0
    assert "TENURE_BROKER_URL is not set" in service.said()
    assert len(service.said().splitlines()) == 1
