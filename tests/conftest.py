"""What tests stand on: real servers, a fresh database for each test, real adapters.

PostgreSQL, Valkey, S3 and the SMTP inbox are started once for each pytest worker and are stopped with it. A test that
asks for `database` gets a database of its own, copied from a migrated template. A run of pytest inside a test uses the
servers of that test (`GIVEN`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.schema import migrations
from tasks.certificates import erasure_notes, publishing
from tasks.client.requests import publish
from tasks.crypto.keyring import Keyring
from tasks.crypto.signing import Signer
from tasks.ports.context import Ports
from tests.support.servers.commands import Commands
from tests.support.time.deadlines import deadline
from workers.adapters.mail.smtp import SMTPMailer
from workers.adapters.objects.s3 import S3ObjectStore
from workers.celery.identity import dead, identity
from workers.local import stack as local_stack
from workers.settings.settings import Settings, parse
from workers.wiring import bootstrap

pytest_plugins = ["tests.support.time.clock", "tests.support.rendered.golden_files", "tests.support.time.timeouts"]

#: Of this process: a run of pytest inside a test uses the same server.
TEMPLATE = f"tenure_template_{os.getpid()}"
#: The environment variable that names servers which run already, as JSON.
GIVEN = "TENURE_TEST_SERVERS"
#: Bytes that are free before servers' data are kept in memory; those of a pytest worker are 1 to 2 GB at most.
ROOM = 8 << 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: begun last, one would keep the run waiting while the other cores have nothing to do.

    A test is long if it has a timeout of its own, or starts processes. The order is otherwise as it was.
    """
    items.sort(
        key=lambda item: (item.get_closest_marker("timeout") is None, not {"acceptance", "faults"} & {*item.path.parts})
    )


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """The environment that names this pytest worker's servers."""
    if GIVEN in os.environ:
        yield json.loads(os.environ[GIVEN])
        return
    # A short path that another user may enter: PostgreSQL does not run as root.
    directory = Path(tempfile.mkdtemp(prefix="tenure-", dir=roomy_memory()))
    directory.chmod(0o755)
    try:
        with local_stack.servers(directory) as environment:
            yield environment
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def roomy_memory() -> str | None:
    """A folder in memory for data that last as long as the test run, if this machine has one with room to spare.

    A database is copied and dropped for each test: on a disk that others write to as well, that takes a second now and
    then. Servers that a test breaks on purpose keep their data on the disk (`stack`).
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) > ROOM:
        return str(memory)
    return None


@pytest.fixture(scope="session")
def administration(servers: dict[str, str]) -> Iterator[psycopg.Connection]:
    """One connection for all databases that are made and dropped: another one for each would take as long again."""
    with psycopg.connect(servers["TENURE_DATABASE_URL"], autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(servers: dict[str, str], administration: psycopg.Connection) -> Iterator[str]:
    """A migrated database that others are copied from; yields the address of its server's `tenure` database."""
    admin = servers["TENURE_DATABASE_URL"]
    administration.execute(f"CREATE DATABASE {TEMPLATE}")
    database = Database(admin.rpartition("/")[0] + f"/{TEMPLATE}")
    with database.connection() as connection:
        migrations.upgrade(connection)
        publish(session := Session(connection))
        session.flush()
    database.engine.dispose()
    yield admin
    drop(administration, TEMPLATE)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The `tenure` command, as often as a test likes."""
    made = Commands()
    yield made
    made.close()


@pytest.fixture(scope="session")
def ledger(servers: dict[str, str]) -> S3ObjectStore:
    """The bucket, which tests share."""
    return S3ObjectStore(parse(servers))


@pytest.fixture
def database_url(template: str, administration: psycopg.Connection, ledger: S3ObjectStore) -> Iterator[str]:
    # A new database knows of no erasure: with those of another test in the bucket, it would count as restored.
    for folder in (erasure_notes.FOLDER, publishing.FOLDER):
        for stored in ledger.list(folder):
            ledger.erase(stored.key)
    name = f"test_{uuid4().hex}"
    # Files are copied: through the log, as is the default, they are written twice.
    administration.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
    yield template.rpartition("/")[0] + f"/{name}"
    drop(administration, name)


def drop(connection: psycopg.Connection, name: str) -> None:
    """Drop a database; an autovacuum in it is not ours to end, and is waited for."""
    connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    ends = time.monotonic() + deadline(60)
    while True:
        try:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse):
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def inbox(servers: dict[str, str]) -> Iterator[Path]:
    """The folder of accepted messages, empty at the start of the test."""
    folder = Path(servers["TENURE_INBOX"])
    for file in folder.glob("*"):
        if file.is_file():
            file.unlink()
    yield folder


@dataclass
class RecordedWaker:
    """A waker that notes what it was asked; the broker's own is tested with real workers."""

    woken: list[str] = field(default_factory=list)
    #: What waits for a free process.
    waiting: set[str] = field(default_factory=set)

    def __call__(self, task: str) -> None:
        self.woken.append(task)

    def waits(self, task: str) -> bool:
        return task in self.waiting

    def begun(self, task: str) -> None:
        pass


@pytest.fixture
def addresses(servers: dict[str, str], database_url: str) -> dict[str, str]:
    """The environment that names the servers and this test's database."""
    return servers | {"TENURE_DATABASE_URL": database_url}


@pytest.fixture
def settings(addresses: dict[str, str]) -> Settings:
    return parse(addresses)


@pytest.fixture
def ports(settings: Settings, database: Database, inbox: Path) -> Iterator[Ports]:
    """Ports over this test's database and the real S3 and SMTP servers, in this process."""
    mailer = SMTPMailer(settings.mail_url)
    made = Ports(
        database=database,
        objects=S3ObjectStore(settings),
        mailer=mailer,
        letterhead=bootstrap.letterhead(settings),
        wake=RecordedWaker(),
        worker=identity(),
        dead=dead,
        stopping=lambda: False,
        lease=timedelta(seconds=60),
        budget=timedelta(seconds=30),
        keyring=Keyring(settings.key_encryption_keys),
        signer=Signer(settings.certificate_keys, issuer=settings.company_name),
    )
    yield made
    mailer.close()


@pytest.fixture
def other_worker(ports: Ports) -> Ports:
    """The same ports as another process of another host would have them."""
    return replace(ports, worker="elsewhere|1|0")
