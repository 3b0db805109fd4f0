"""The statements in `models/schema/sql/`, one by one, and which of them a database lacks.

A function, trigger or view is replaced only if its statement is another one than the last that was applied, or if it
is gone: replacing a trigger makes writers of its table wait, and replacing a view its readers. Everything else in the
files, such as `DO` and `INSERT`, changes nothing and locks nothing if it has nothing to do, and is run whenever
anything is replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, text

from models.base.base import SCHEMA

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*) | (?P<end>;) | '(?:[^']|'')*' | "[^"]*" | (?P<dollars>\$\w*\$).*?(?P=dollars)""",
    re.DOTALL | re.VERBOSE,
)
_OBJECT = re.compile(
    r"""CREATE\ OR\ REPLACE\ (?:
            (?P<kind>FUNCTION|VIEW)\ (?P<name>[\w.]+) | TRIGGER\ (?P<trigger>\w+)\b.*?\bON\ (?P<table>[\w.]+)
        )""",
    re.DOTALL | re.VERBOSE,
)
_APPLIED = text(f"SELECT name, sha256 FROM {SCHEMA}.applied_definitions")
_EXISTING = text("""
    SELECT 'function ' || pronamespace::regnamespace || '.' || proname FROM pg_proc
     WHERE pronamespace = CAST(:schema AS regnamespace)
     UNION ALL
    SELECT 'view ' || relnamespace::regnamespace || '.' || relname FROM pg_class
     WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind = 'v'
     UNION ALL
    SELECT 'trigger ' || tgname || ' on ' || relnamespace::regnamespace || '.' || relname
      FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
     WHERE relnamespace = CAST(:schema AS regnamespace) AND NOT tgisinternal""")


@dataclass(frozen=True)
class Definition:
    """One statement."""

    statement: str

    @cached_property
    def name(self) -> str | None:
        """The function, trigger or view that it makes or replaces; None for any other statement."""
        found = _OBJECT.match(self.statement)
        if found is None:
            return None
        if found["trigger"]:
            return f"trigger {found['trigger']} on {found['table']}"
        return f"{found['kind'].lower()} {found['name']}"

    @cached_property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.statement.encode()).digest()


def read(files: Path) -> Iterator[Definition]:
    """Yield the statements of all files in a folder, in the files' order, without comments between them."""
    for file in sorted(files.glob("*.sql")):
        yield from map(Definition, split(file.read_text(encoding="utf-8")))


def split(script: str) -> Iterator[str]:
    """Yield the statements of a script, without the comments outside of strings and bodies."""
    parts: list[str] = []
    position = 0
    for token in _TOKEN.finditer(script):
        parts.append(script[position : token.start()])
        position = token.end()
        if token["end"]:
            yield "".join(parts).strip()
            parts = []
        elif not token["comment"]:
            parts.append(token[0])
    if rest := "".join([*parts, script[position:]]).strip():
        yield rest


def differing(connection: Connection, definitions: Sequence[Definition]) -> Sequence[Definition]:
    """Return what has to be applied, in its order; nothing if every object is there as it is defined."""
    applied = {row.name: bytes(row.sha256) for row in connection.execute(_APPLIED)}
    existing = set(connection.execute(_EXISTING, {"schema": SCHEMA}).scalars())
    lacking = {
        each.name
        for each in definitions
        if each.name is not None and (applied.get(each.name) != each.sha256 or each.name not in existing)
    }
    return [each for each in definitions if each.name is None or each.name in lacking] if lacking else ()


def apply(connection: Connection, definition: Definition) -> None:
    """Run a statement, and note what it made, in the caller's transaction."""
    # Without parameters psycopg takes no percent sign of PL/pgSQL for a placeholder.
    connection.exec_driver_sql(definition.statement, execution_options={"no_parameters": True})
    if definition.name is not None:
        connection.execute(
            text(f"""
                INSERT INTO {SCHEMA}.applied_definitions (name, sha256) VALUES (:name, :sha256)
                ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256"""),
            {"name": definition.name, "sha256": definition.sha256},
        )
