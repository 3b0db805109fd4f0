"""Bringing a database to the schema that this version of Tenure expects, while others use it.

Tables change by numbered Alembic revisions. Functions, triggers and views live once, as they are now, in
`models/schema/sql/`, and are applied after the revisions (`models/schema/definitions.py`).

A statement that waits for a lock makes all wait who come after it. So `migrate` waits for a fraction of a second at a
time, and lets the others pass before it tries again. Each revision and each definition is a transaction of its own: it
holds nothing that a transaction of the application could wait for while it waits itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.base import SCHEMA, Base
from models.base.unit_of_work import Database, is_conflict
from models.billing import currency
from models.data_map import fence
from models.data_map.map import own_map
from models.schema import definitions
from models.schema.definitions import Definition
from models.sessions.held_session import HeldSession
from models.sessions.held_session_key import HeldSessionKey
from models.sessions.session import Session
from models.work.row import Work

HERE = Path(__file__).parent
SQL_FILES = HERE.parent / "sql"
VERSION_TABLE = "schema_version"
#: Partitions that are made from now on have the fence from the beginning.
FENCE_OF_PARTITIONS = f"""
    SELECT {SCHEMA}.fence_partition(inhrelid, inhparent) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
     WHERE relkind = 'p' AND relnamespace = '{SCHEMA}'::regnamespace"""
#: One migration at a time, whoever starts it: any constant will do.
LOCK = 7_046_510_183
#: So long a statement waits for a lock, and others behind it. Well below the second after which PostgreSQL looks for
#: deadlocks, which it might end by an error in the application's transaction.
LOCK_TIMEOUT = timedelta(milliseconds=200)
#: Between two tries, so that those who waited behind the first one are served.
PAUSE = timedelta(seconds=1)
#: So long one step is tried.
PATIENCE = timedelta(minutes=10)


class SchemaError(Exception):
    """The schema cannot be brought to this version; the sentence says why and what to do."""


def config(connection: Connection | None = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(HERE))
    made.set_main_option("path_separator", "os")
    made.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether Alembic may look at something of this name.

    Tenure shares a database with the application, so nothing outside its own schema; and partitions come and go by the
    clock.
    """
    if kind == "table":
        return not str(name).startswith(("sessions_", "usage_events_"))
    return kind != "schema" or name == SCHEMA


def migrate(
    database: Database, publish: Callable[[Connection], None] = lambda _connection: None, patience: timedelta = PATIENCE
) -> None:
    """Bring a database that others use to the newest schema, then call `publish` in a transaction.

    What is done stays done if a later step fails; another call goes on from there. An empty database gets the whole
    schema in one transaction. Raises SchemaError for a revision of another version, and if a lock was not to be had
    within `patience`.
    """
    with database.engine.connect() as connection, _alone(connection):
        with connection.begin():
            if (found := _revision(connection)) is None:
                upgrade(connection)
                publish(connection)
                return
            _check_revision(connection)
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT // timedelta(milliseconds=1)}"))
        connection.commit()
        if found != _newest():
            _persist(connection, lambda: command.upgrade(config(connection), "head"), "the next revision", patience)
        with connection.begin():
            lacking = definitions.differing(connection, _definitions())
        for definition in lacking:
            what = definition.name or "a statement of the schema"
            _persist(connection, lambda made=definition: _apply(connection, made), what, patience)  # type: ignore[misc]
        with connection.begin():
            currency.publish(connection)
            publish(connection)


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the lock of migrations; another one waits for its release before it does anything."""
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.commit()
    try:
        yield
    finally:
        # The lock and `lock_timeout` are the connection's: it is not used for anything else.
        connection.invalidate()


def _persist(connection: Connection, step: Callable[[], None], what: str, patience: timedelta) -> None:
    """Do a step that commits by itself, again after each conflict, until `patience` is over."""
    ends = time.monotonic() + patience.total_seconds()
    while True:
        try:
            return step()
        except DBAPIError as error:
            connection.rollback()
            if not is_conflict(error):
                raise
            if time.monotonic() > ends:
                raise SchemaError(
                    f"The lock for {what} was not to be had for {patience.total_seconds():.0f} s, since a transaction"
                    " that is open for as long uses the same table (pg_stat_activity, xact_start). What came before is"
                    " done. Run tenure migrate again when that transaction has ended."
                ) from error
            time.sleep(PAUSE.total_seconds())


def _apply(connection: Connection, definition: Definition) -> None:
    with connection.begin():
        definitions.apply(connection, definition)


def upgrade(connection: Connection) -> None:
    """Bring a database that nobody else uses to the newest schema, in the caller's transaction: wholly or not at all.

    Raises SchemaError for a revision of another version.
    """
    apply_revisions(connection)
    apply_sql_files(connection)
    currency.publish(connection)


def apply_revisions(connection: Connection) -> None:
    """Bring the tables to the newest revision. Raises SchemaError for a revision of another version."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    _check_revision(connection)
    command.upgrade(config(connection), "head")


def _check_revision(connection: Connection) -> None:
    """Raise SchemaError if the database is at a revision that this version does not have."""
    found = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaError(
            f"The database's schema is at revision {found}, which this version of Tenure does not have. Run the newest"
            " version that was ever run on this database. If that was one from before the first release, begin with an"
            " empty database."
        )


def _newest() -> str | None:
    return ScriptDirectory.from_config(config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None if it has none."""
    options: dict[str, Any] = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def apply_sql_files(connection: Connection) -> None:
    """Make or replace every function, trigger and view."""
    for definition in _definitions():
        definitions.apply(connection, definition)


def _definitions() -> Sequence[Definition]:
    return (*definitions.read(SQL_FILES), *map(Definition, own_fence()), Definition(FENCE_OF_PARTITIONS))


def own_fence() -> Sequence[str]:
    """The triggers before Tenure's own tables (T9).

    Sessions end when their account is frozen, and need nothing but that none is made. Those of a held account are
    brought to safety by the freeze itself, and by sweeps, so that no fence stands before what is kept of them.
    """
    works = {mapper.class_.__tablename__ for mapper in Base.registry.mappers if issubclass(mapper.class_, Work)}
    mapped = own_map(Base)
    held = {HeldSession.__tablename__, HeldSessionKey.__tablename__}
    fenced = replace(mapped, tables=tuple(each for each in mapped.tables if each.name.table not in held))
    return fence.own_statements(fenced, works=works, gone={Session.__tablename__})


def missing(connection: Connection) -> str | None:
    """What keeps this database from being used, as a sentence; None where its schema is the one expected."""
    expected = _newest()
    found = _revision(connection)
    if found == expected:
        return None
    return f"The database's schema is at revision {found or 'none'}, this version needs {expected}: run tenure migrate."
