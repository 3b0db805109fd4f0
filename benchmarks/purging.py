"""The contestants of P9, each in a process of its own, so that its peak memory is its own.

    python -m benchmarks.purging keyset|ours|once|orm ROWS     # says "done SECONDS ROWS PEAK CPU"

The addresses are those of the environment. Imports are not counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import psycopg

from benchmarks.processes import peak

ACCOUNT = "00000000-0000-7000-8000-000000000001"
OTHER = "00000000-0000-7000-8000-000000000002"
BATCH = 10_000
#: Of six rows one is a child of another; half of all are of another account, in between.
SETUP = f"""
    INSERT INTO tenure.accounts (id, ref, name, currency, status)
    VALUES ('{ACCOUNT}', 'bench', 'Bench', 'EUR', 'active'), ('{OTHER}', 'other', 'Other', 'EUR', 'active');
    CREATE SCHEMA shop;
    CREATE TABLE shop.events (id uuid PRIMARY KEY, account_id uuid NOT NULL, occurred_at timestamptz NOT NULL,
        name text NOT NULL, ip inet, browser text, properties jsonb NOT NULL);
    INSERT INTO shop.events
    SELECT uuidv7(), CASE WHEN n % 2 = 0 THEN '{ACCOUNT}' ELSE '{OTHER}' END::uuid, now() - n * interval '1 s',
           'page.viewed', ('10.' || n % 250 || '.' || n % 13 || '.7')::inet, 'Firefox 140.0',
           jsonb_build_object('path', '/app/projects/' || n, 'ms', n % 1000)
      FROM generate_series(1, {{events}} * 2) AS n;
    CREATE INDEX ON shop.events (account_id, id);
    CREATE TABLE shop.notes (id uuid PRIMARY KEY, account_id uuid NOT NULL,
        event_id uuid NOT NULL REFERENCES shop.events, words text NOT NULL);
    INSERT INTO shop.notes
    SELECT uuidv7(), account_id, id, 'A note of some words on it'
      FROM (SELECT *, row_number() OVER (PARTITION BY account_id ORDER BY id) AS n FROM shop.events) AS events
     WHERE n <= {{notes}};
    CREATE INDEX ON shop.notes (account_id, id);
    CREATE INDEX ON shop.notes (event_id);
    VACUUM ANALYZE shop.events;
    VACUUM ANALYZE shop.notes"""
#: A termination whose record was sealed and delivered.
DELIVERED = f"""
    UPDATE tenure.accounts SET status = 'frozen' WHERE id = '{ACCOUNT}';
    INSERT INTO tenure.terminations (account_id, requested_by, ends_at, cancel_until)
    VALUES ('{ACCOUNT}', 'sql', now(), now());
    UPDATE tenure.terminations SET stage = 'grace';
    UPDATE tenure.terminations SET stage = 'frozen';
    UPDATE tenure.terminations SET stage = 'exporting';
    UPDATE tenure.terminations SET stage = 'sealed', archive_key = 'a', archive_sha256 = sha256(''), sealed_at = now(),
        manifest_sha256 = sha256(''), correspondence = jsonb_build_object('account_ref', 'bench'),
        exported_rows = '{{"main": {{"tenure.accounts": 1, "shop.events": EVENTS, "shop.notes": NOTES}}}}';
    UPDATE tenure.terminations SET stage = 'delivered', delivered_at = now(), delivered_by = 'download';
    INSERT INTO tenure.termination_steps (termination_id, step) SELECT id, 'purge' FROM tenure.terminations"""


def parts(rows: int) -> tuple[int, int]:
    """How many events and notes so many rows are."""
    return rows - rows // 6, rows // 6


def setup(observer: psycopg.Connection[object], rows: int) -> None:
    events, notes = parts(rows)
    for statement in SETUP.format(events=events, notes=notes).split(";\n"):
        observer.execute(statement)


def keyset(_rows: int) -> Callable[[], int]:
    """The limit: batches in the order of the index, children first, by prepared statements and nothing else."""
    connection = psycopg.connect(os.environ["TENURE_DATABASE_URL"], autocommit=True)

    def run() -> int:
        gone = 0
        for table in ("notes", "events"):
            last: object = "00000000-0000-0000-0000-000000000000"
            while True:
                row = connection.execute(
                    f"""
                    WITH page AS MATERIALIZED (SELECT id FROM shop.{table} WHERE account_id = '{ACCOUNT}' AND id > %s
                                                ORDER BY id LIMIT {BATCH}),
                         gone AS (DELETE FROM shop.{table} WHERE id = ANY (ARRAY(SELECT id FROM page)) RETURNING 1)
                    SELECT (SELECT count(*) FROM gone), (SELECT id FROM page ORDER BY id DESC LIMIT 1)""",
                    (last,),
                    prepare=True,
                ).fetchone()
                assert row is not None
                gone += row[0]
                if row[0] < BATCH:
                    break
                last = row[1]
        return gone

    return run


def once(_rows: int) -> Callable[[], int]:
    """What one would write first: one DELETE for each table."""
    connection = psycopg.connect(os.environ["TENURE_DATABASE_URL"], autocommit=True)

    def run() -> int:
        return sum(
            connection.execute(f"DELETE FROM shop.{table} WHERE account_id = '{ACCOUNT}'").rowcount
            for table in ("notes", "events")
        )

    return run


def ours(rows: int) -> Callable[[], int]:
    """The step PURGE as a worker does it: map and record compared, every store of Tenure's looked at, and evidence."""
    from dataclasses import replace

    from models.data_map.map import Category, DataMap, MappedTable, Path, table_name
    from tasks.engine.drain import drain
    from tasks.ports.context import Estate
    from tasks.termination.advancing import PURGE
    from workers.app import app
    from workers.settings.settings import settings
    from workers.wiring import bootstrap

    path = (Path.parse("account_id = account.id"),)
    columns = {
        "events": "id account_id occurred_at name ip browser properties",
        "notes": "id account_id event_id words",
    }
    company = DataMap(
        tuple(
            MappedTable(table_name(f"shop.{name}"), Category.MACHINE, path, ("id",), tuple(exported.split()), {})
            for name, exported in columns.items()
        )
    )
    ports = replace(bootstrap.ports(settings(), app), company=lambda: Estate(company, {}))
    events, notes = parts(rows)
    with psycopg.connect(os.environ["TENURE_DATABASE_URL"], autocommit=True) as connection:
        for statement in DELIVERED.replace("EVENTS", str(events)).replace("NOTES", str(notes)).split(";\n"):
            connection.execute(statement)  # type: ignore[arg-type]
    # Connected, as the limit is.
    with ports.database.connection():
        ports.objects.abandon("none/")

    def run() -> int:
        told = drain(PURGE, ports)
        assert told == {"steps": 1}, told
        return rows

    return run


def orm(rows: int) -> Callable[[], int]:
    """Objects of the ORM with a relationship that cascades; as many as ROWS says."""
    from sqlalchemy import MetaData, Table, create_engine, select
    from sqlalchemy.orm import DeclarativeBase, Session, relationship

    from models.base.unit_of_work import sqlalchemy_url

    engine = create_engine(sqlalchemy_url(os.environ["TENURE_DATABASE_URL"]))
    metadata = MetaData()

    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __table__ = Table("events", metadata, schema="shop", autoload_with=engine)
        notes = relationship("Note", cascade="all, delete-orphan")

    class Note(Base):
        __table__ = Table("notes", metadata, schema="shop", autoload_with=engine)

    def run() -> int:
        # The registry holds classes weakly: without this one, it may be gone by now.
        assert Note
        gone = 0
        with Session(engine) as session:
            wanted = select(Event).where(Event.account_id == ACCOUNT).order_by(Event.id).limit(rows)
            for event in session.scalars(wanted):
                gone += 1 + len(event.notes)
                session.delete(event)
            session.commit()
        return gone

    return run


def main(contestant: str, rows: int) -> None:
    run = {"keyset": keyset, "ours": ours, "once": once, "orm": orm}[contestant](rows)
    begun, used = perf_counter(), process_time()
    done = run()
    print(f"done {perf_counter() - begun} {done} {peak(os.getpid())} {process_time() - used}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
