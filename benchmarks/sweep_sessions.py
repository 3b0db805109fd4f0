"""P6: sweep Tenure's own sessions, and P7: those that Django, Flask-Session and connect-pg-simple keep in tables.

Half of the sessions are over. Rates are of those; WAL is of the sweep alone. Latencies are of one connection that looks
up and inserts sessions, first with nothing else going on, then beside a sweep.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from uuid import UUID

import psycopg

from benchmarks.latencies import Latencies, beside
from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.servers import Observer, Servers
from models.base.unit_of_work import Database
from tasks.sessions.sweep import REST, OwnSessions
from workers.adapters.sessions.sql import SQLSessions
from workers.settings.session_stores import SQLTable, parse

BATCH = 10_000
OWN = "Tenure: partitions emptied"
DROP = "DROP TABLE, a partition each"
DJANGO = "Django's clearsessions"
ONE = "one DELETE"
KEYSET = f"psycopg: keyset batches of {BATCH:,}"
STORES = "Tenure: the sweep of a store"

CLEAR = """
import sys, time, django
from django.conf import settings
from urllib.parse import urlsplit
at = urlsplit(sys.argv[1])
settings.configure(INSTALLED_APPS=["django.contrib.sessions"], USE_TZ=True, SECRET_KEY="x", DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": at.path[1:], "USER": at.username, "PASSWORD": at.password,
    "HOST": at.hostname, "PORT": at.port}})
django.setup()
from django.core.management import call_command
from django.db import connection
connection.ensure_connection()
begun = time.perf_counter()
call_command("clearsessions")
print(time.perf_counter() - begun)
"""


@dataclass(frozen=True)
class Table:
    """A session table as its library makes it; `fill` takes how many rows, of which the first half is over."""

    kind: str
    make: str
    fill: str
    name: str
    key: str
    column: str
    indexed: bool = True


TABLES = (
    Table(
        "django",
        """CREATE TABLE django_session (session_key varchar(40) PRIMARY KEY, session_data text NOT NULL,
                                        expire_date timestamptz NOT NULL);
           CREATE INDEX django_session_session_key_like ON django_session (session_key varchar_pattern_ops);
           CREATE INDEX django_session_expire_date ON django_session (expire_date)""",
        """INSERT INTO django_session SELECT md5(n::text), repeat('x', 100), now() +
             (n - {all} / 2) * interval '24 hours' / ({all} / 2) FROM generate_series(1, {all}) AS n""",
        "django_session",
        "session_key",
        "expire_date",
    ),
    Table(
        "flask-session",
        """CREATE TABLE sessions (id serial PRIMARY KEY, session_id varchar(255) UNIQUE, data bytea,
                                  expiry timestamp)""",
        """INSERT INTO sessions (session_id, data, expiry) SELECT md5(n::text), sha256(''), timezone('UTC', now()) +
             (n - {all} / 2) * interval '24 hours' / ({all} / 2) FROM generate_series(1, {all}) AS n""",
        "sessions",
        "id",
        "expiry",
        indexed=False,
    ),
    Table(
        "connect-pg-simple",
        """CREATE TABLE session (sid varchar PRIMARY KEY, sess json NOT NULL, expire timestamp(6) NOT NULL);
           CREATE INDEX "IDX_session_expire" ON session (expire)""",
        """INSERT INTO session SELECT md5(n::text), '{{"cookie": {{}}}}', timezone('UTC', now()) +
             (n - {all} / 2) * interval '24 hours' / ({all} / 2) FROM generate_series(1, {all}) AS n""",
        "session",
        "sid",
        "expire",
    ),
)


def own(servers: Servers, work: int, runs: int) -> Row:
    """P6."""
    contestants = {
        DROP: partial(_own, servers, work, _drop_all),
        OWN: partial(_own, servers, work, _sweep_own),
        DJANGO: partial(_django, servers, work, _clear),
        ONE: partial(_django, servers, work, _delete_once),
        KEYSET: partial(_django, servers, work, partial(_keyset, TABLES[0])),
    }
    measured = interleaved(contestants, runs)
    latencies = _beside_own(servers, work)
    row = Row(
        "P6",
        f"sweep half of {work:,} sessions of our own",
        "rows/s",
        Better.HIGHER,
        measured.pop(OWN),
        measured.pop(DROP),
        list(measured.values()),
        notes=["the peers sweep django_session"],
    )
    clear = row.peers[0]
    wal = (row.ours.wal or 0) / (clear.wal or 1)
    row.goals = [
        Goal("≤ 2 % of the WAL of clearsessions", f"{wal:.1%}", wal <= 0.02),
        Goal("no slower than clearsessions", f"{row.ratio(clear):.1f} ×", row.ratio(clear) >= 1),
        *(
            Goal(f"p99 of {what} beside it within 1.5 × of idle", each.said(), each.times() <= 1.5)
            for what, each in latencies.items()
        ),
    ]
    return row


def foreign(servers: Servers, work: int, runs: int) -> Row:
    """P7."""
    each = {table.kind: max(2, work // len(TABLES)) for table in TABLES}
    rates: dict[str, dict[str, list[float]]] = {KEYSET: {}, STORES: {}}

    def all_tables(who: str, sweep: Callable[[Table, Observer], int]) -> Sample:
        rows, seconds, wal = 0, 0.0, 0
        for table in TABLES:
            with _table(servers, table, each[table.kind]) as observer:
                before, begun = observer.wal(), perf_counter()
                gone = sweep(table, observer)
                took = perf_counter() - begun
                wal += observer.wal() - before
                _half_is_left(observer, table, each[table.kind])
                rates[who].setdefault(table.kind, []).append(gone / took)
                rows, seconds = rows + gone, seconds + took
        return Sample(rows / seconds, wal=wal)

    measured = interleaved(
        {KEYSET: partial(all_tables, KEYSET, _keyset), STORES: partial(all_tables, STORES, _store)}, runs
    )
    latencies = _beside_store(servers, each["django"])
    row = Row(
        "P7",
        f"sweep half of {work:,} sessions in the tables of three libraries",
        "rows/s",
        Better.HIGHER,
        measured[STORES],
        measured[KEYSET],
        notes=[
            f"{table.kind}: {statistics.median(rates[STORES][table.kind]):,.0f} rows/s, keyset batches "
            f"{statistics.median(rates[KEYSET][table.kind]):,.0f}"
            for table in TABLES
        ],
    )
    assert row.limit is not None
    ratio = row.ratio(row.limit)
    row.goals = [
        Goal("≥ 80 % of keyset batches", f"{ratio:.0%}", ratio >= 0.8),
        Goal("p99 of inserts beside it within 5 × of idle", latencies.said(), latencies.times() <= 5),
    ]
    return row


def _fill_own(observer: Observer, work: int) -> None:
    """Two days of sessions in the partitions of their times, as sweeps that ran a day ago left them."""
    connection = observer.connection
    constraints = ("fk_sessions_account_id_accounts", "fk_sessions_contact_id_contacts")
    keys = {
        name: observer.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s LIMIT 1", name)
        for name in constraints
    }
    for name in constraints:  # checked once for all of them, below
        connection.execute(f"ALTER TABLE tenure.sessions DROP CONSTRAINT {name}")
    connection.execute("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', 'Acme', 'EUR')")
    connection.execute("""
        SELECT tenure.make_session_partition(instant) FROM generate_series(
            now() - interval '49 hours', now() - interval '45 minutes', interval '45 minutes') AS instant
         WHERE NOT EXISTS (SELECT FROM tenure.session_partitions WHERE since <= instant AND until > instant)""")
    # Half an hour on each side is left free, so that what is over is so by whole partitions, now and when it is swept.
    connection.execute(
        """
        INSERT INTO tenure.sessions (id, account_id, secret_sha256)
        SELECT uuidv7(- CASE WHEN n %% 2 = 0 THEN interval '25 hours' + interval '23 hours' * n / %(all)s
                             ELSE interval '23 hours' * n / %(all)s END), account.id, sha256('')
          FROM generate_series(1, %(all)s) AS n, tenure.accounts AS account""",
        {"all": work},
    )
    for name, definition in keys.items():
        connection.execute(f"ALTER TABLE tenure.sessions ADD CONSTRAINT {name} {definition}")
    connection.execute("VACUUM ANALYZE tenure.sessions")


def _own(servers: Servers, work: int, sweep: Callable[[Observer], int]) -> Sample:
    with servers.database() as observer:
        _fill_own(observer, work)
        before, used, begun = observer.wal(), servers.cpu(), perf_counter()
        gone = sweep(observer)
        seconds = perf_counter() - begun
        assert gone == work // 2, f"{gone} sessions were swept, not {work // 2}"
        assert observer.value("SELECT count(*) FROM tenure.live_sessions") == work - work // 2
        return Sample(gone / seconds, wal=observer.wal() - before, cpu=servers.cpu() - used)


def _sweep_own(observer: Observer, rest: float = 0.0) -> int:
    database = Database(observer.url, pool_size=1)
    try:
        return OwnSessions(database, rest=rest).sweep(lambda: False).gone
    finally:
        database.engine.dispose()


def _drop_all(observer: Observer) -> int:
    """What is left of a sweep that counts nothing and waits for nobody."""
    before = int(observer.value("SELECT sum(reltuples)::bigint FROM pg_class WHERE relispartition AND relkind = 'r'"))
    for (name,) in observer.connection.execute(
        "SELECT name FROM tenure.session_partitions WHERE until <= now() - interval '24 hours'"
    ).fetchall():
        observer.connection.execute(f"DROP TABLE tenure.{name}")
    after = int(observer.value("SELECT sum(reltuples)::bigint FROM pg_class WHERE relispartition AND relkind = 'r'"))
    return before - after


@contextmanager
def _table(servers: Servers, table: Table, work: int) -> Iterator[Observer]:
    with servers.database(migrated=False) as observer:
        observer.connection.execute(table.make)
        observer.connection.execute(table.fill.format(all=work))
        observer.connection.execute(f"VACUUM ANALYZE {table.name}")
        yield observer


def _half_is_left(observer: Observer, table: Table, work: int) -> None:
    assert observer.value(f"SELECT count(*) FROM {table.name}") <= work - work // 2, "not all that is over was swept"


def _django(servers: Servers, work: int, sweep: Callable[[Observer], float]) -> Sample:
    with _table(servers, TABLES[0], work) as observer:
        before, used, begun = observer.wal(), servers.cpu(), perf_counter()
        told = sweep(observer)
        seconds = told if sweep is _clear else perf_counter() - begun
        _half_is_left(observer, TABLES[0], work)
        return Sample((work // 2) / seconds, wal=observer.wal() - before, cpu=servers.cpu() - used)


def _clear(observer: Observer) -> float:
    """The command itself; how long it took once it had a connection."""
    done = subprocess.run([sys.executable, "-c", CLEAR, observer.url], check=True, capture_output=True, text=True)
    return float(done.stdout)


def _delete_once(observer: Observer) -> int:
    return observer.connection.execute("DELETE FROM django_session WHERE expire_date < now()").rowcount


def _keyset(table: Table, observer: Observer) -> int:
    """Batches in the order of the index, or of the key where there is none, by prepared statements and nothing else."""
    order = table.column if table.indexed else table.key
    over = f"{table.column} <= now()" if table.kind == "django" else f"{table.column} <= timezone('UTC', now())"
    page = f"SELECT {table.key} AS key, {order} AS value, {over} AS over FROM {table.name}"
    only = f"WHERE {over} AND" if table.indexed else "WHERE"
    query = f"""
        WITH page AS MATERIALIZED ({page} {only} {order} > %(last)s ORDER BY {order} LIMIT {BATCH}),
             gone AS (DELETE FROM {table.name} WHERE {table.key} = ANY (ARRAY(SELECT key FROM page WHERE over))
                      RETURNING 1)
        SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM page), (SELECT max(value) FROM page)"""
    last: object = "-infinity" if table.indexed else 0
    swept = 0
    while True:
        row = observer.connection.execute(query, {"last": last}, prepare=True).fetchone()
        assert row is not None
        swept += row[0]
        if row[1] < BATCH:
            return swept
        last = row[2]


def _store(table: Table, observer: Observer) -> int:
    (store,) = parse(f'[[store]]\nname = "bench"\nkind = "{table.kind}"\n', production=False)
    assert isinstance(store, SQLTable)
    database = Database(observer.url, pool_size=1)
    try:
        sessions = SQLSessions(store, database.engine)
        sessions.check()
        return sessions.sweep(lambda: False).gone
    finally:
        database.engine.dispose()


def _beside_own(servers: Servers, work: int) -> dict[str, Latencies]:
    with servers.database() as observer:
        _fill_own(observer, work)
        account = observer.value("SELECT id FROM tenure.accounts")
        some: list[UUID] = [
            row[0] for row in observer.connection.execute("SELECT id FROM tenure.live_sessions LIMIT 10000").fetchall()
        ]
        known = iter(some * 1_000)

        def look_up(connection: psycopg.Connection[object]) -> None:
            connection.execute("SELECT secret_sha256 FROM tenure.live_sessions WHERE id = %s", (next(known),))

        def insert(connection: psycopg.Connection[object]) -> None:
            connection.execute(
                "INSERT INTO tenure.sessions (account_id, secret_sha256) VALUES (%s, sha256('new'))", (account,)
            )

        return beside(observer, {"look-ups": look_up, "inserts": insert}, lambda: _sweep_own(observer, REST))


def _beside_store(servers: Servers, work: int) -> Latencies:
    with _table(servers, TABLES[0], work) as observer:

        def insert(connection: psycopg.Connection[object]) -> None:
            connection.execute("INSERT INTO django_session VALUES (gen_random_uuid()::text, 'x', now() + '1 day')")

        return beside(observer, {"inserts": insert}, lambda: _store(TABLES[0], observer))["inserts"]
