"""What a benchmark stands on: the embedded servers, durable as in `tenure up`, and a fresh database for each run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import redis
from sqlalchemy.orm import Session

from benchmarks.processes import Crew, cpu
from models.base.unit_of_work import Database
from models.schema import migrations
from tasks.certificates import erasure_notes, publishing
from tasks.client.requests import publish
from workers.adapters.objects.s3 import S3ObjectStore
from workers.local import stack as local_stack
from workers.settings.settings import parse

TEMPLATE = "bench_template"


@dataclass(frozen=True)
class Servers:
    """The servers of one invocation; `environment` names them as `TENURE_*` variables."""

    environment: dict[str, str]
    directory: Path

    def broker(self) -> redis.Redis:
        """A client of the broker, emptied."""
        client = redis.Redis.from_url(self.environment["TENURE_BROKER_URL"])
        client.flushall()
        return client

    def cpu(self) -> float:
        """The seconds of processor time that all servers have used."""
        return sum(cpu(pid) for pid in local_stack.running(self.directory).values())

    @contextlib.contextmanager
    def filled(self, fill: Callable[[psycopg.Connection[Any]], None]) -> Iterator[str]:
        """The name of a database with Tenure's schema that is filled once, to be copied by each run of many."""
        with self.database() as observer:
            fill(observer.connection)
            # No one may be connected to what is copied.
            observer.connection.close()
            yield observer.url.rpartition("/")[2]

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True, copied: str | None = None) -> Iterator[Observer]:
        """A database of its own for one run: Tenure's schema in it, or what the database `copied` holds, or nothing.

        A copy is made file by file, so each run begins with the same pages and right after a checkpoint.
        """
        admin = self.environment["TENURE_DATABASE_URL"]
        name = f"bench_{uuid4().hex[:12]}"
        source = f"{copied} STRATEGY file_copy" if copied else TEMPLATE if migrated else "template0"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        url = admin.rpartition("/")[0] + f"/{name}"
        try:
            with psycopg.connect(url, autocommit=True, application_name="observer") as connection:
                yield Observer(url, connection)
        finally:
            # Without FORCE, which may not end autovacuum; a plain DROP sends that away and waits for the last to leave.
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name}")
            if migrated:
                self._forget_erasures()

    def _forget_erasures(self) -> None:
        """The next database knows nothing of them: workers would take it for restored, and refuse to start (T26)."""
        objects = S3ObjectStore(parse(self.environment))
        for folder in (erasure_notes.FOLDER, publishing.FOLDER):
            for stored in objects.list(folder):
                objects.erase(stored.key)

    @contextlib.contextmanager
    def crew(self, database_url: str | None = None, **settings: object) -> Iterator[Crew]:
        """Processes with these servers' addresses; `lease_seconds=2` sets TENURE_LEASE_SECONDS."""
        chosen = {f"TENURE_{name.upper()}": str(value) for name, value in settings.items()}
        if database_url:
            chosen["TENURE_DATABASE_URL"] = database_url
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.directory))
        try:
            with Crew(self.environment | chosen, folder) as crew:
                yield crew
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Observer:
    """One connection beside the work, which looks at what was done and costs next to nothing."""

    url: str
    connection: psycopg.Connection[Any]

    def value(self, query: str, *values: object) -> Any:
        row = self.connection.execute(query, values).fetchone()
        assert row is not None
        return row[0]

    def wal(self) -> int:
        """Where the write-ahead log is, in bytes: the difference of two answers is what was written."""
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))


@contextlib.contextmanager
def servers(*, fast: bool = False) -> Iterator[Servers]:
    """Start all servers; stop them and remove what they kept. `fast`: PostgreSQL does not wait for the disk."""
    # A short path that another user may enter: PostgreSQL does not run as root.
    directory = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    directory.chmod(0o755)
    try:
        with local_stack.servers(directory, fast=fast) as environment:
            _make_template(environment["TENURE_DATABASE_URL"])
            yield Servers(environment, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make_template(admin: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    database = Database(admin.rpartition("/")[0] + f"/{TEMPLATE}")
    with database.connection() as connection:
        migrations.upgrade(connection)
        publish(session := Session(connection))
        session.flush()
    database.engine.dispose()
