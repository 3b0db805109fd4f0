"""What integration tests share: the `tenure` command as an operator types it, and a database that loses COMMITs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import redis
from sqlalchemy.engine import make_url

from models.base.unit_of_work import Database
from tasks.ports.context import Ports
from tests.support.servers.commands import Commands
from tests.support.servers.database_proxy import DatabaseProxy
from tests.support.servers.mail_server import MailServer
from workers.adapters.mail.smtp import SMTPMailer

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tenure(servers: Mapping[str, str], database_url: str, commands: Commands) -> Run:
    """Run the command with this test's database."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        passed_on = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        chosen = passed_on | dict(servers) | {"TENURE_DATABASE_URL": database_url, "COLUMNS": "100"} | environment
        return commands.run(*arguments, environment=chosen)

    return run


@pytest.fixture
def valkey(servers: Mapping[str, str]) -> Iterator[redis.Redis]:
    """The broker, emptied before and after, as text."""
    client = redis.Redis.from_url(servers["TENURE_BROKER_URL"], decode_responses=True)
    client.flushall()
    yield client
    client.flushall()
    client.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[DatabaseProxy]:
    url = make_url(database_url)
    with DatabaseProxy(url.host or "", url.port or 0) as made:
        yield made


@pytest.fixture
def far_ports(ports: Ports, database_url: str, proxy: DatabaseProxy) -> Iterator[Ports]:
    """The ports, with PostgreSQL behind the proxy."""
    host, port = proxy.address
    url = make_url(database_url).set(host=host, port=port)
    far = Database(url.render_as_string(hide_password=False))
    yield replace(ports, database=far)
    far.engine.dispose()


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as made:
        yield made


@pytest.fixture
def server_ports(ports: Ports, server: MailServer) -> Iterator[Ports]:
    mailer = SMTPMailer(server.url, timeout=10)
    yield replace(ports, mailer=mailer)
    mailer.close()
