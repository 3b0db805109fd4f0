"""The clock of a test's database, set to any time, for every process that uses that database.

    pytestmark = pytest.mark.clock("2026-11-22 12:00")      # UTC; every test of the module, or one test as a decorator

    def test_reminders(clock: Clock, database: Database) -> None:
        clock.set(datetime(2027, 6, 9, 8, tzinfo=UTC))

Tenure asks its database for the time. So a test whose data name days of the calendar sets its database's clock, and
holds on every day; a test without the mark takes its days from the clock of the machine, by `now()`.

A schema `shifted` comes before PostgreSQL's own in the search path. Its `now()` and `clock_timestamp()` add a distance,
the same for every connection. What PostgreSQL bound to its own functions before, defaults of columns and functions of
the schema `tenure`, is bound anew. `CURRENT_DATE` and its kind are keywords and cannot be shifted: a test with a set
clock writes `now()::date`. The time within `uuidv7()`, and so when a session began, is the machine's.
"""

from __future__ import annotations

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
    GRANT USAGE ON SCHEMA shifted TO PUBLIC;
    GRANT SELECT ON shifted.clock TO PUBLIC;
"""

#: Statements that bind the defaults and functions of `tenure` to whatever `now()` the search path finds first.
REBIND = r"""
    SELECT format('ALTER TABLE tenure.%I ALTER COLUMN %I SET DEFAULT %s', relname, attname,
                  replace(pg_get_expr(adbin, adrelid), 'CURRENT_DATE', 'now()::date'))
      FROM pg_attrdef
      JOIN pg_class ON pg_class.oid = adrelid AND relnamespace = 'tenure'::regnamespace AND NOT relispartition
      JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum AND attgenerated = ''
     WHERE pg_get_expr(adbin, adrelid) ~ '\m(now|clock_timestamp)\(\)|\mCURRENT_DATE\M'
     UNION ALL
    SELECT replace(pg_get_functiondef(oid), 'SET search_path TO ''pg_catalog''',
                                            'SET search_path TO shifted, pg_catalog')
      FROM pg_proc
     WHERE pronamespace = 'tenure'::regnamespace AND prokind IN ('f', 'p')
       AND pg_get_functiondef(oid) ~ '\m(now|clock_timestamp)\(\)'"""


@dataclass
class Clock:
    address: str

    def install(self) -> None:
        """Before anybody connects: a search path is taken over at the start of a connection."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            # While PostgreSQL's own functions are found first, it prints their names alone.
            connection.execute("SET search_path = pg_catalog")
            rebind = connection.execute(REBIND).fetchall()
            connection.execute(SHADOW)
            connection.execute("SET search_path = shifted, pg_catalog, public")
            connection.execute(";".join(statement for (statement,) in rebind))
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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clock(moment): it is `moment` (YYYY-MM-DD HH:MM, UTC) in the test's database")


@pytest.fixture
def clock(database_url: str, request: pytest.FixtureRequest) -> Clock:
    made = Clock(database_url)
    made.install()
    if marker := request.node.get_closest_marker("clock"):
        made.set(datetime.fromisoformat(marker.args[0]).replace(tzinfo=UTC))
    return made


@pytest.fixture(autouse=True)
def _marked_clock(request: pytest.FixtureRequest) -> None:
    """Set the clock of a marked test before anybody connects to its database."""
    if request.node.get_closest_marker("clock") and "database_url" in request.fixturenames:
        request.getfixturevalue("clock")
