"""What clocks, relay, health checks, metrics and evidence ask is bounded by what is due or new, never by history (W49).

Each table is filled with rows that are at their end; then every tick of the timetable, the relay's look, the health
checks, the metrics with the promises' evidence, and what `tenure doctor` asks of PostgreSQL are run, and the plan of
each statement is read. `HISTORY=1000000 pytest tests/integration/observe/test_query_bounds.py` does it with a million
rows.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from uuid import uuid4

import msgspec
import psycopg
import pytest
from celery import Celery

import tasks
from models.base.base import SCHEMA, Base
from models.base.unit_of_work import Database
from scheduler.timetable import TIMETABLE
from tasks.engine.registry import jobs
from tasks.ports import context as current_ports
from tasks.ports.context import Ports
from tests.conftest import TEMPLATE, drop
from tests.support.rows import history
from tests.support.rows.history import Read
from tests.support.rows.reminding import a_policy
from workers.observe import doctor, health
from workers.observe.metrics import Figures
from workers.services import relay
from workers.settings.settings import Settings
from workers.wiring import bootstrap

ROWS = int(os.environ.get("HISTORY") or 20_000)
#: Of a work table's rows so many are due in the second half.
DUE = ROWS // 4
#: Of however many finished rows and next to nothing due, no answer needs more than this.
FEW_ROWS = 1_100
FEW_PAGES = 600
#: The doctor compares every erasure with the object store, and counts the keys of all accounts, when a person asks.
AUDITS = {"erasures", "keys"}

pytestmark = pytest.mark.timeout(240 + ROWS / 100)

Old = Callable[[str], str]


@pytest.fixture(scope="module")
def old(servers: Mapping[str, str], template: str) -> Iterator[Old]:
    """Makes a database from another one, which begins as the migrated template; returns its address."""
    made: list[str] = []

    def copy(source: str) -> str:
        name = f"history_{uuid4().hex}"
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {source.rpartition('/')[2]} STRATEGY file_copy")
        made.append(name)
        return template.rpartition("/")[0] + f"/{name}"

    yield copy
    with psycopg.connect(template, autocommit=True) as connection:
        for name in made:
            drop(connection, name)


@pytest.fixture(scope="module")
def finished(servers: Mapping[str, str], old: Old) -> str:
    """The address of a database in which every table has `ROWS` rows, all of them at their end."""
    address = old(TEMPLATE)
    database = Database(address)
    a_policy(database)
    database.engine.dispose()
    with history.superuser(servers, address) as connection:
        history.fill(connection, ROWS)
        connection.execute("VACUUM (ANALYZE)")
    return address


@pytest.fixture(scope="module")
def backlogged(servers: Mapping[str, str], old: Old, finished: str) -> str:
    """The same with `DUE` rows of each work table due, as after an outage of a night."""
    address = old(finished)
    with history.superuser(servers, address) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in history.work_tables():
            unmarked = ", committing_at = NULL" if table == "email_messages" else ""
            connection.execute(
                f"UPDATE {SCHEMA}.{table} "
                f"SET state = 'pending', finished_at = NULL, due_at = now() - interval '1 hour'{unmarked} "
                f"WHERE id IN (SELECT id FROM {SCHEMA}.{table} ORDER BY id LIMIT {DUE})"
            )
        connection.execute("VACUUM (ANALYZE)")
    return address


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """In place of an empty one: a database of long ago."""
    return str(request.getfixturevalue(getattr(request, "param", "finished")))


@pytest.fixture
def collecting(settings: Settings) -> Settings:
    """With a provider, so that what is to be collected is asked for; nothing is, so it is asked for nothing."""
    return msgspec.structs.replace(settings, stripe_secret_key="sk_test_1", stripe_webhook_secret="whsec_1")


def beyond(seen: list[Read]) -> str:
    """The statements that read more than their answers need."""
    assert seen, "nothing was asked"
    return "\n".join(
        str(read)
        for read in seen
        if read.rows > FEW_ROWS + 10 * read.returned or read.pages > FEW_PAGES + 10 * read.returned
    )


@pytest.mark.parametrize("task", [entry.task for entry in TIMETABLE if entry.task != "security.audit_dependencies"])
def test_a_tick_reads_no_history(
    ports: Ports, collecting: Settings, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    # A gateway makes no connection before it is asked.
    ours = replace(ports, payments=bootstrap.payments(collecting))
    for found in pkgutil.walk_packages(tasks.__path__, "tasks."):
        module = importlib.import_module(found.name)
        if getattr(module, "current", None) is current_ports.current and module is not current_ports:
            monkeypatch.setattr(module, "current", lambda: ours)
    monkeypatch.setattr(current_ports, "current", lambda: ours)
    app = Celery("history", set_as_current=False)
    app.finalize()
    # What is new to it, such as a partition to make, is done by the first one.
    app.tasks[task].run()
    with history.watched() as seen:
        app.tasks[task].run()
    assert not beyond(seen)


@pytest.mark.parametrize("database_url", ["finished", "backlogged"], indirect=True)
def test_the_relay_reads_what_is_due_alone(ports: Ports) -> None:
    with history.watched() as seen:
        relay._wake_due(ports, jobs(), {})
    assert not beyond(seen)


@pytest.mark.parametrize("database_url", ["finished", "backlogged"], indirect=True)
def test_health_checks_read_what_is_due_alone(settings: Settings, database: Database) -> None:
    with database.connection() as connection, history.watched() as seen:
        health.relay(settings, connection)
        health.overdue(connection, jobs())
    assert not beyond(seen)


def test_metrics_and_the_evidence_of_promises_read_no_history(collecting: Settings, database: Database) -> None:
    with history.watched() as seen:
        figures = {metric.name: metric for metric in Figures(collecting, database).collect()}
    assert figures["tenure_database_up"].samples[0].value == 1
    assert "tenure_promise_kept" in figures
    assert not beyond(seen)


@pytest.mark.parametrize("check", doctor.CHECKS, ids=lambda check: check.__name__)
def test_the_doctor_reads_no_history(settings: Settings, check: Callable[[Settings], object]) -> None:
    with history.watched() as seen:
        check(settings)
    if check.__name__ not in AUDITS and seen:
        assert not beyond(seen)


def test_every_table_that_grows_is_filled(database: Database) -> None:
    """And the watch sees what it is to see: a count of a whole table is beyond what its answer needs."""
    with database.connection() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name in history.CATALOGUES:
                continue
            with history.watched() as seen:
                connection.exec_driver_sql(f"SELECT count(*) FROM {SCHEMA}.{table.name}")
            assert seen[0].rows >= ROWS, table.name
            assert beyond(seen)
