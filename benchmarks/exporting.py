"""The contestants of P8, each in a process of its own, so that its peak memory is its own.

    python -m benchmarks.exporting copy|ours|orm ROWS     # says "done SECONDS ROWS PEAK CPU"

The addresses are those of the environment. Imports are not counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from time import perf_counter, process_time
from uuid import UUID, uuid4

import psycopg

from benchmarks.processes import peak

ACCOUNT = UUID("00000000-0000-7000-8000-000000000001")
REF = "bench"
COLUMNS = "id account_id occurred_at name ip city browser system referrer properties"
#: Half of the rows are of other accounts, in between.
SETUP = f"""
    INSERT INTO tenure.accounts (id, ref, name, currency) VALUES ('{ACCOUNT}', '{REF}', 'Bench', 'EUR');
    CREATE SCHEMA shop;
    CREATE TABLE shop.events (id uuid PRIMARY KEY, account_id uuid NOT NULL, occurred_at timestamptz NOT NULL,
        name text NOT NULL, ip inet, city text, browser text, system text, referrer text, properties jsonb NOT NULL);
    INSERT INTO shop.events
    SELECT uuidv7(), CASE WHEN n % 2 = 0 THEN '{ACCOUNT}'::uuid ELSE gen_random_uuid() END,
           now() - n * interval '1.234567 s', 'page.viewed', ('10.' || n % 250 || '.' || n % 13 || '.7')::inet, 'Wien',
           'Firefox 140.0', 'Linux', CASE WHEN n % 4 = 0 THEN NULL ELSE 'https://example.com/search?q=' || n END,
           jsonb_build_object('path', '/app/projects/' || n, 'ms', n % 1000, 'ok', true)
      FROM generate_series(1, {{rows}} * 2) AS n;
    CREATE INDEX ON shop.events (account_id)"""


def setup(observer: psycopg.Connection[object], rows: int) -> None:
    observer.execute(SETUP.format(rows=rows))
    # Whoever reads rows first would otherwise note on each page that they are committed.
    observer.execute("VACUUM ANALYZE shop.events")


def copy(rows: int) -> Callable[[], int]:
    """The limit: PostgreSQL's own CSV, to nowhere."""
    connection = psycopg.connect(os.environ["TENURE_DATABASE_URL"])
    query = f"COPY (SELECT * FROM shop.events WHERE account_id = '{ACCOUNT}' LIMIT {rows}) TO STDOUT (FORMAT csv)"

    def run() -> int:
        with connection.cursor() as cursor, cursor.copy(query) as copied:
            return sum(1 for _ in copied)

    return run


def ours(_rows: int) -> Callable[[], int]:
    """The archive as a termination makes it, to the end of its upload; reading back is not part of it."""
    from isal import isal_zlib
    from stream_zip import stream_zip

    from models.data_map.map import AccountKeys, Category, DataMap, MappedTable, Path, table_name
    from tasks.export.archive import Archive, write
    from workers.app import app
    from workers.settings.settings import settings
    from workers.wiring import bootstrap

    assert isal_zlib
    assert stream_zip
    path = Path.parse("account_id = account.id")
    table = MappedTable(table_name("shop.events"), Category.MACHINE, (path,), ("id",), tuple(COLUMNS.split()), {})
    ports = bootstrap.ports(settings(), app)
    archive = Archive(uuid4(), AccountKeys(ACCOUNT, REF), "")
    # Connected, as the limit is.
    with ports.database.connection():
        ports.objects.abandon(archive.folder)
    return lambda: sum(write(ports, DataMap((table,)), archive, run=uuid4()).rows.values())


def orm(rows: int) -> Callable[[], int]:
    """What one would write: rows as objects, the csv module, a ZIP with zlib's level 6, and boto3's upload of parts."""
    import csv
    import io
    import zipfile

    from sqlalchemy import MetaData, Table, create_engine, select
    from sqlalchemy.orm import DeclarativeBase, Session

    from models.base.unit_of_work import sqlalchemy_url
    from models.data_map.places import Folder, FolderPlace
    from workers.adapters.objects.s3 import S3ObjectStore
    from workers.settings.settings import settings

    chosen = settings()
    engine = create_engine(sqlalchemy_url(chosen.database_url))

    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __table__ = Table("events", MetaData(), schema="shop", autoload_with=engine)

    class Sink(io.RawIOBase):
        """What the ZIP wrote, until it is uploaded."""

        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, piece: bytes) -> int:  # type: ignore[override]
            self.pieces.append(bytes(piece))
            return len(piece)

    def run() -> int:
        sink, count = Sink(), 0

        def zipped() -> Iterator[bytes]:
            nonlocal count
            with (
                Session(engine) as session,
                zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
                archive.open("events.csv", "w") as member,
                io.TextIOWrapper(member, "utf-8", newline="") as text,
            ):
                writer = csv.writer(text)
                chosen_rows = select(Event).where(Event.account_id == ACCOUNT).limit(rows)
                for event in session.scalars(chosen_rows.execution_options(yield_per=1_000)):
                    writer.writerow([getattr(event, name) for name in COLUMNS.split()])
                    count += 1
                    while sink.pieces:
                        yield sink.pieces.pop(0)
            yield from sink.pieces

        S3ObjectStore(chosen).upload(
            FolderPlace(Folder.ARCHIVES, f"orm/{uuid4()}.zip"), zipped(), content_type="application/zip"
        )
        return count

    return run


def main(contestant: str, rows: int) -> None:
    run = {"copy": copy, "ours": ours, "orm": orm}[contestant](rows)
    begun, used = perf_counter(), process_time()
    done = run()
    print(f"done {perf_counter() - begun} {done} {peak(os.getpid())} {process_time() - used}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
