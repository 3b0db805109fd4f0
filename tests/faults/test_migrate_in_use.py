"""`tenure migrate` on a database in use: nobody waits for it, whatever is open meanwhile (W44)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.base import Base
from models.base.unit_of_work import Database
from models.schema import migrations
from tasks.client.requests import publish
from tests.support.time.deadlines import deadline

#: What the web tier does all day, each in a transaction of its own. `{n}` is another word each time.
ACTIVITIES = {
    "log in": "SELECT tenure.create_session('acme', sha256('{n}'))",
    "look up a session": "SELECT count(*) FROM tenure.live_sessions WHERE id = uuidv7()",
    "write to the ledger": "SELECT tenure.record_entry('acme', 'charge', 'EUR', 1, 'x', now(), external_ref => '{n}')",
    "make a request": "SELECT tenure.request('statements.send', '{{\"account\": \"acme\"}}', '{n}')",
    "write to two tables": (
        "UPDATE tenure.contacts SET name = '{n}'; UPDATE tenure.accounts SET name = '{n}' WHERE ref = 'acme'"
    ),
    "write to the two in another order": (
        "UPDATE tenure.open_items SET disputed = 0; UPDATE tenure.contacts SET name = '{n}'"
    ),
}
OPEN_FOR = deadline(2)


@pytest.fixture
def company(database: Database) -> Database:
    with database.connection() as connection:
        connection.execute(text("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', 'Acme', 'EUR')"))
        connection.execute(
            text("""
                INSERT INTO tenure.contacts (account_id, name, email)
                SELECT id, '', 'a@acme.example' FROM tenure.accounts""")
        )
    return database


@contextmanager
def a_transaction(address: str, mode: str = "ACCESS SHARE") -> Iterator[psycopg.Connection]:
    """One that is open for hours: a report, or an import that has written to every table of ours (ROW EXCLUSIVE)."""
    tables = ", ".join(f"tenure.{table.name}" for table in Base.metadata.sorted_tables)
    with psycopg.connect(address) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(f"LOCK TABLE {tables} IN {mode} MODE")
        connection.execute("SELECT FROM tenure.live_sessions LIMIT 1")
        yield connection
        connection.rollback()


def waits(address: str, statements: str, ended: Event) -> list[float]:
    """Do something again and again; return the seconds that each took."""
    taken = []
    with psycopg.connect(address) as connection:
        while not ended.is_set():
            begun = time.monotonic()
            for statement in statements.format(n=uuid4().hex).split("; "):
                connection.execute(statement)
            connection.commit()
            taken.append(time.monotonic() - begun)
            time.sleep(0.01)
    return taken


def longest_waits(address: str, meanwhile: Callable[[], None]) -> dict[str, float]:
    """The longest that each activity took while `meanwhile` ran. An error of one of them, a deadlock say, is raised."""
    ended = Event()
    with ThreadPoolExecutor(len(ACTIVITIES)) as pool:
        doing: dict[str, Future[list[float]]] = {
            name: pool.submit(waits, address, statements, ended) for name, statements in ACTIVITIES.items()
        }
        try:
            time.sleep(0.5)
            meanwhile()
        finally:
            ended.set()
        return {name: max(future.result(deadline(60))) for name, future in doing.items()}


def forget_what_was_applied(database: Database) -> None:
    """As if every function, trigger and view had changed in this version."""
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.applied_definitions SET sha256 = ''"))


def applied(database: Database) -> dict[str, str]:
    with database.connection() as connection:
        found = connection.execute(text("SELECT name, encode(sha256, 'hex') AS sha256 FROM tenure.applied_definitions"))
        return {row.name: row.sha256 for row in found}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["ACCESS SHARE", "ROW EXCLUSIVE"])
def test_nobody_waits_for_a_migration_that_waits_for_another(company: Database, database_url: str, mode: str) -> None:
    """Everything is replaced while a report or an import is open. What the web tier does takes as long as without
    migration, but for less than a second."""
    before = applied(company)

    def the_other_alone() -> None:
        with a_transaction(database_url, mode):
            time.sleep(OPEN_FOR)

    def migrate_beside_it() -> None:
        forget_what_was_applied(company)
        with ThreadPoolExecutor(1) as pool, a_transaction(database_url, mode) as other:
            migrating = pool.submit(migrations.migrate, company, publish)
            time.sleep(OPEN_FOR)
            assert not migrating.done(), "the other transaction was to hold the migration up"
            other.rollback()
            migrating.result(deadline(60))

    usual = longest_waits(database_url, the_other_alone)
    found = longest_waits(database_url, migrate_beside_it)
    print({name: (round(usual[name], 3), round(found[name], 3)) for name in ACTIVITIES})
    # Behind the migration they would have waited for as long as the other was open.
    assert deadline(1) < OPEN_FOR
    assert {name: wait for name, wait in found.items() if wait > max(usual.values()) + deadline(1)} == {}
    assert applied(company) == before


def test_migrating_with_nothing_to_do_waits_for_nobody(company: Database, database_url: str) -> None:
    """Not even for a transaction that has written to every table."""
    with a_transaction(database_url, "ROW EXCLUSIVE") as busy, ThreadPoolExecutor(1) as pool:
        migrating = pool.submit(migrations.migrate, company, publish)
        try:
            migrating.result(deadline(20))
        finally:
            busy.rollback()


def test_migrating_with_nothing_to_do_writes_nothing(company: Database, database_url: str) -> None:
    def written() -> int:
        with psycopg.connect(database_url) as connection:
            catalogue = "SELECT sum(xmin::text::bigint) FROM {}"
            sums = (*(f"tenure.{t}" for t in ("currencies", "request_kinds", "applied_definitions")), "pg_proc")
            return sum(int(connection.execute(catalogue.format(name)).fetchone()[0]) for name in sums)  # type: ignore[index]

    before = written()
    migrations.migrate(company, publish)
    assert written() == before


def test_only_what_differs_is_replaced(company: Database, database_url: str) -> None:
    """A function of another text, a trigger that is gone; every other one stays the row that it was."""
    functions = "SELECT 'tenure.' || proname, xmin::text FROM pg_proc WHERE pronamespace = 'tenure'::regnamespace"
    triggers = "SELECT tgname, xmin::text FROM pg_trigger WHERE tgrelid = 'tenure.ledger_entries'::regclass"
    with psycopg.connect(database_url, autocommit=True) as connection:
        functions_before = dict(connection.execute(functions).fetchall())
        triggers_before = dict(connection.execute(triggers).fetchall())
        connection.execute(
            "UPDATE tenure.applied_definitions SET sha256 = '' WHERE name = 'function tenure.billing_date'"
        )
        connection.execute("DROP TRIGGER number_ledger_entry ON tenure.ledger_entries")
        migrations.migrate(company, publish)
        functions_after = dict(connection.execute(functions).fetchall())
        triggers_after = dict(connection.execute(triggers).fetchall())

    changed = {name for name in functions_before if functions_before[name] != functions_after[name]}
    assert changed == {"tenure.billing_date"}
    assert {n for n in triggers_before if triggers_before[n] != triggers_after[n]} == {"number_ledger_entry"}


def test_a_lock_that_is_never_to_be_had_is_said_and_the_next_run_goes_on(company: Database, database_url: str) -> None:
    before = applied(company)
    forget_what_was_applied(company)
    with (
        a_transaction(database_url),
        pytest.raises(migrations.SchemaError, match=r"view tenure\.live_sessions was not"),
    ):
        migrations.migrate(company, publish, patience=timedelta(seconds=0))
    done = {name for name, sha256 in applied(company).items() if sha256}
    assert done, "what came before the view is done"
    migrations.migrate(company, publish)
    assert applied(company) == before


REVISION = """
from alembic import op

revision = {number!r}
down_revision = {before!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute({statement!r})
"""


def add_revisions(folder: Path, *statements: str) -> None:
    """Write the revisions of the next versions, one for each statement."""
    last = max(int(path.name[:4]) for path in folder.glob("0*.py"))
    for number, statement in enumerate(statements, last + 1):
        source = REVISION.format(number=f"{number:04}", before=f"{number - 1:04}", statement=statement)
        (folder / f"{number:04}_next.py").write_text(source)


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of revisions, a copy for this test."""
    copied = tmp_path / "migrations"
    shutil.copytree(migrations.HERE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "HERE", copied)
    return copied / "versions"


def revision(database: Database) -> int:
    with database.connection() as connection:
        return int(connection.execute(text("SELECT version_num FROM tenure.schema_version")).scalar_one())


def test_each_revision_is_a_transaction_and_the_next_run_goes_on_after_the_last(
    company: Database, versions: Path
) -> None:
    at = revision(company)
    add_revisions(versions, "CREATE TABLE tenure.made ()", "CREATE TABLE tenure.made_next (); SELECT 1 / 0")
    for _ in range(2):
        with pytest.raises(DBAPIError, match="division by zero"):
            migrations.migrate(company, publish)
        assert revision(company) == at + 1
        with company.connection() as connection:
            assert connection.execute(text("SELECT to_regclass('tenure.made_next')")).scalar_one() is None


def test_a_revision_that_waits_for_another_is_tried_again(company: Database, database_url: str, versions: Path) -> None:
    at = revision(company)
    add_revisions(versions, "ALTER TABLE tenure.accounts ADD made int", "ALTER TABLE tenure.contacts ADD made int")
    with ThreadPoolExecutor(2) as pool, a_transaction(database_url) as other:
        migrating = pool.submit(migrations.migrate, company, publish)
        # Longer than a statement waits for its lock: once it has given up, others pass, and it tries again.
        time.sleep(OPEN_FOR)
        assert not migrating.done()
        assert revision(company) == at
        other.rollback()
        migrating.result(deadline(30))
    assert revision(company) == at + 2


def test_an_older_version_leaves_what_a_newer_one_published(company: Database) -> None:
    def kinds(connection: Connection) -> dict[str, tuple[int, object]]:
        rows = connection.execute(text("SELECT kind, version, fields FROM tenure.request_kinds"))
        return {row.kind: (row.version, row.fields) for row in rows}

    with company.connection() as connection:
        before = kinds(connection)
        connection.execute(
            text("INSERT INTO tenure.request_kinds (kind, version, fields) VALUES ('next.kind', 1, '{}')")
        )
        connection.execute(
            text("UPDATE tenure.request_kinds SET version = 9, fields = '{}' WHERE kind = 'statements.send'")
        )
        connection.execute(text("UPDATE tenure.request_kinds SET fields = '{}' WHERE kind = 'invoices.send'"))
    migrations.migrate(company, publish)
    with company.connection() as connection:
        after = kinds(connection)
    assert after == before | {"next.kind": (1, {}), "statements.send": (9, {})}
