"""Acceptance tests run Tenure as its users do: real processes on real servers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, Stack
from tests.support.servers.commands import Commands
from tests.support.servers.processes import Processes
from workers.local import stack as local_stack

#: The lines of each process's log that a failed test shows.
SHOWN = 80


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows the end of the log of each of its processes."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            for running in value if isinstance(value, tuple) else (value,):
                if isinstance(running, Processes):
                    for name, text in running.logs():
                        report.sections.append((f"log of {name}", "\n".join(text.splitlines()[-SHOWN:])))
    return report


@pytest.fixture
def broker(servers: dict[str, str]) -> Iterator[redis.Redis]:
    """This pytest worker's own broker, emptied."""
    client = redis.Redis.from_url(servers["TENURE_BROKER_URL"])
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def processes(
    addresses: dict[str, str], broker: redis.Redis, inbox: Path, tmp_path: Path, commands: Commands
) -> Iterator[Processes]:
    """Where to start Tenure's processes, on this test's database and an empty broker and inbox."""
    with Processes(addresses, tmp_path, commands) as made:
        yield made


@pytest.fixture
def outcome(servers: dict[str, str], database: Database, database_url: str, inbox: Path) -> Outcome:
    return Outcome(database, inbox, servers)


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Servers that belong to one test alone, which may break them. PostgreSQL keeps what it has committed."""
    directory = Path(tempfile.mkdtemp(prefix="tenure-own-"))
    directory.chmod(0o755)
    try:
        with local_stack.servers(directory, fast=False) as environment:
            yield Stack(directory, environment)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
