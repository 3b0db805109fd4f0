"""A PostgreSQL standby made by pg_basebackup, which can be cut off from its primary and promoted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from models.base.unit_of_work import Database
from models.schema import migrations
from tasks.client.requests import publish
from tests.support.servers.processes import eventually
from tests.support.servers.restoring import BIN
from tests.support.time.deadlines import deadline
from workers.local import stack as embedded
from workers.local.place import Place, existing_place


@dataclass
class Pair:
    """A primary with one streaming standby. Both addresses are of the platform's own role and database."""

    primary: str
    standby: str
    _primary_at: Path
    _standby_at: Path
    _databases: list[Database] = field(default_factory=list)

    def database(self, address: str) -> Database:
        self._databases.append(Database(address))
        return self._databases[-1]

    def synchronous(self) -> None:
        """From now on a COMMIT is answered when the standby has it."""
        with _as_superuser(self._primary_at) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("ALTER SYSTEM SET synchronous_commit = 'on'")
            connection.execute("SELECT pg_reload_conf()")
            eventually(
                lambda: connection.execute("SELECT sync_state FROM pg_stat_replication").fetchone() == ("sync",),
                "the standby is synchronous",
            )

    def cut(self) -> None:
        """The standby gets nothing more: what is committed from here on is lost with the primary."""
        self._catch_up()
        with _as_superuser(self._standby_at) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")
            eventually(
                lambda: connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,),
                "the standby is cut off",
            )

    def fail_over(self) -> Database:
        """Kill the primary, promote the standby; the database that is the primary now."""
        embedded.stop(self._primary_at, names={"postgres"}, quick=True)
        with _as_superuser(self._standby_at) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
        return self.database(self.standby)

    def _catch_up(self) -> None:
        with _as_superuser(self._primary_at) as primary, _as_superuser(self._standby_at) as standby:
            (at,) = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone() or ("",)
            eventually(
                lambda: standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (at,)).fetchone() == (True,),
                "the standby has what the primary has",
            )

    def close(self) -> None:
        for database in self._databases:
            database.engine.dispose()


@contextmanager
def pair(directory: Path) -> Iterator[Pair]:
    """A migrated primary and its standby, both empty, in `directory`, which another user may enter."""
    primary_at, standby_at = directory / "primary", directory / "standby"
    with ExitStack() as stack:
        primary = stack.enter_context(embedded.servers(primary_at, names={"postgres"}, fast=False))[
            "TENURE_DATABASE_URL"
        ]
        _back_up(_place(primary_at), standby_at)
        standby = stack.enter_context(embedded.servers(standby_at, names={"postgres"}, fast=False))[
            "TENURE_DATABASE_URL"
        ]
        made = Pair(primary, standby, primary_at, standby_at)
        stack.callback(made.close)
        with made.database(primary).transaction() as session:
            migrations.upgrade(session.connection())
            publish(session)
        yield made


def _back_up(place: Place, to: Path) -> None:
    data = to / "postgres" / "data"
    data.parent.mkdir(parents=True)
    shutil.copy(place.directory / "secrets.json", to / "secrets.json")
    done = subprocess.run(
        [
            *(str(BIN / "pg_basebackup"), "--pgdata", str(data), "--write-recovery-conf", "--checkpoint", "fast"),
            *("--host", "127.0.0.1", "--port", str(place.ports["postgres"]), "--username", "postgres", "--no-sync"),
        ],
        env={"PGPASSWORD": place.secrets.postgres_superuser, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(120),
    )
    assert done.returncode == 0, done.stderr
    owner = (place.directory / "postgres" / "data").stat()
    for each in [data, *data.rglob("*")]:
        os.chown(each, owner.st_uid, owner.st_gid)


def _place(directory: Path) -> Place:
    found = existing_place(directory)
    assert found is not None
    return found


def _as_superuser(directory: Path) -> psycopg.Connection:
    place = _place(directory)
    return psycopg.connect(
        host="127.0.0.1",
        port=place.ports["postgres"],
        user="postgres",
        password=place.secrets.postgres_superuser,
        dbname="postgres",
        autocommit=True,
    )
