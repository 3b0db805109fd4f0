"""The clock of one test's database, set to any time, for every process that uses that database.

`now()` and `clock_timestamp()` are shadowed by functions in a schema that comes before PostgreSQL's own. So the code
that asks the database what time it is runs unchanged, in this process and in real workers. What PostgreSQL bound to
its own clock when it was made keeps that: defaults of columns, and functions that set their own search path. So times
are set that are later than the real one: what such a default has written is past, as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

SHADOW = """
    CREATE SCHEMA shifted;
    CREATE TABLE shifted.clock (ahead interval NOT NULL);
    INSERT INTO shifted.clock VALUES ('0');
    CREATE FUNCTION shifted.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.now() + (SELECT ahead FROM shifted.clock)';
    CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + (SELECT ahead FROM shifted.clock)';
"""


@dataclass
class Clock:
    address: str

    def install(self) -> None:
        """Before anybody connects: a search path is taken over at the start of a connection."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(SHADOW)
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET search_path = shifted, pg_catalog, public")

    def set(self, moment: datetime) -> None:
        """It is `moment` now; from here on it goes on."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute("UPDATE shifted.clock SET ahead = %s::timestamptz - pg_catalog.now()", (moment,))

    def advance(self, step: timedelta) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute("UPDATE shifted.clock SET ahead = ahead + %s", (step,))

    def now(self) -> datetime:
        with psycopg.connect(self.address, autocommit=True) as connection:
            row = connection.execute("SELECT now()").fetchone()
            assert row is not None
            moment: datetime = row[0]
            return moment.astimezone(UTC)


@pytest.fixture
def clock(database_url: str) -> Iterator[Clock]:
    made = Clock(database_url)
    made.install()
    yield made
