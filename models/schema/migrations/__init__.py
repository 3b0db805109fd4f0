"""Bringing a database to the schema that this version of Tenure expects.

Tables change by numbered Alembic revisions. Functions, triggers and views live once, as they are now, in
`models/schema/sql/`; each file can be applied again and is, in order, after the revisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from models.base.base import SCHEMA, Base
from models.billing import currency
from models.data_map import fence
from models.data_map.map import own_map
from models.sessions.held_session import HeldSession
from models.sessions.held_session_key import HeldSessionKey
from models.sessions.session import Session
from models.work.row import Work

HERE = Path(__file__).parent
SQL_FILES = HERE.parent / "sql"
VERSION_TABLE = "schema_version"
#: One migration at a time, whoever starts it: any constant will do.
LOCK = 7_046_510_183


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


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest schema, in the caller's transaction: wholly or not at all."""
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


def _revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None if it has none."""
    options: dict[str, Any] = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def apply_sql_files(connection: Connection) -> None:
    """Create or replace every function, trigger and view."""
    # Past SQLAlchemy, which would take the percent signs of PL/pgSQL for placeholders.
    cursor = connection.connection.cursor()
    for file in sorted(SQL_FILES.glob("*.sql")):
        cursor.execute(file.read_text(encoding="utf-8"))
    for statement in own_fence():
        cursor.execute(statement)
    # Those made from now on have it from the beginning.
    cursor.execute(f"""
        SELECT {SCHEMA}.fence_partition(inhrelid, inhparent) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
         WHERE relkind = 'p' AND relnamespace = '{SCHEMA}'::regnamespace""")


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
    expected = ScriptDirectory.from_config(config()).get_current_head()
    found = _revision(connection)
    if found == expected:
        return None
    return f"The database's schema is at revision {found or 'none'}, this version needs {expected}: run tenure migrate."
