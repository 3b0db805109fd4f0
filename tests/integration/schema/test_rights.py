"""Who may what in the database: workers do all their work and own nothing, the web tier sees none of it (W22, W39)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pkgutil import walk_packages
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import tasks
from models.base.base import Base
from models.base.unit_of_work import Database
from models.schema.rights import WEB_FUNCTIONS, WEB_VIEW
from models.work.row import Work
from scheduler.timetable import TIMETABLE
from tasks.client import sessions
from tasks.client.files import store_file
from tasks.ports import context as ways
from tasks.ports.context import Ports
from tasks.ports.durations import Terms
from tasks.termination import downloads
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.time.deadlines import deadline

PASSWORD = "of a role"


@dataclass(frozen=True)
class Roles:
    owner: Database
    worker: str
    web: str

    def as_role(self, role: str) -> Database:
        parts = urlsplit(self.owner.engine.url.render_as_string(hide_password=False).replace("+psycopg", ""))
        return Database(
            parts._replace(netloc=f"{role}:{PASSWORD.replace(' ', '%20')}@{parts.hostname}:{parts.port}").geturl()
        )


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    """Two roles, with a name that SQL would take for something else."""
    made = [f"user {uuid4().hex[:8]}", f"Web-{uuid4().hex[:8]}"]
    with database.connection() as connection:
        for role in made:
            connection.execute(text(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'"))
            connection.execute(text(f'GRANT "{role}" TO CURRENT_USER'))
    yield Roles(database, *made)
    with database.connection() as connection:
        for role in made:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))


@pytest.fixture
def granted(roles: Roles, tenure: Run) -> Roles:
    for _ in range(2):
        run = tenure("roles", "--worker", roles.worker, "--web", roles.web, "--apply")
        assert (run.returncode, run.stderr) == (0, "")
    return roles


def test_it_prints_what_it_would_grant(roles: Roles, tenure: Run) -> None:
    run = tenure("roles", "--web", roles.web)
    assert run.stdout.splitlines()[0] == f'GRANT USAGE ON SCHEMA tenure TO "{roles.web}";'
    assert "tenure.request(" in run.stdout
    with roles.owner.connection() as connection:
        assert not connection.execute(
            text("SELECT has_schema_privilege(:role, 'tenure', 'USAGE')"), {"role": roles.web}
        ).scalar_one()


def test_the_web_tier_asks_for_work_and_sees_none_of_it(granted: Roles) -> None:
    with granted.owner.transaction() as session:
        an_account(session, ref="acme")
    web = granted.as_role(granted.web)
    with web.transaction() as session:
        session.execute(text("""SELECT tenure.request('statements.send', '{"account": "acme"}', 'order-1')"""))
        cookie = sessions.create(session, account="acme")
        assert sessions.read(session, cookie) is not None
        assert sessions.revoke(session, cookie)
        # However many entries there are: it is told the id of its own.
        session.execute(
            text("SELECT tenure.record_entry(account => 'acme', kind => 'charge', currency => 'EUR', amount => 100,"
                 " description => 'Rent', occurred_at => now())")
        )  # fmt: skip
    with granted.owner.connection() as connection:
        relations = connection.execute(
            text("""
                SELECT c.oid::regclass::text FROM pg_class AS c
                 WHERE relnamespace = 'tenure'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
                   AND relname <> :view"""),
            {"view": WEB_VIEW},
        ).scalars()
        for relation in list(relations):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE") if "_seq" not in relation else ("USAGE", "SELECT"):
                allowed = connection.execute(
                    text(f"SELECT has_{'sequence' if '_seq' in relation else 'table'}_privilege(:role, :name, :right)"),
                    {"role": granted.web, "name": relation, "right": right},
                ).scalar_one()
                assert not allowed, f"{right} on {relation}"
    with pytest.raises(DBAPIError, match="permission denied"), web.connection() as connection:
        connection.execute(text("SELECT * FROM tenure.accounts"))
    web.engine.dispose()


@pytest.mark.parametrize("source", ["operator", "queue"])
def test_the_web_tier_cannot_say_that_a_request_comes_from_elsewhere(granted: Roles, source: str) -> None:
    """By its own connection, nor after SET ROLE from another."""
    with granted.owner.transaction() as session:
        an_account(session, ref="acme")
    forged = text("""SELECT tenure.request('statements.send', '{"account": "acme"}', NULL, :source)""")
    web = granted.as_role(granted.web)
    with pytest.raises(DBAPIError, match="can ask in its own name only"), web.connection() as connection:
        connection.execute(forged, {"source": source})
    web.engine.dispose()
    with granted.owner.connection() as connection:
        connection.execute(text(f'GRANT "{granted.web}" TO CURRENT_USER'))
    with pytest.raises(DBAPIError, match="can ask in its own name only"), granted.owner.connection() as connection:
        connection.execute(text(f'SET LOCAL ROLE "{granted.web}"'))
        connection.execute(forged, {"source": source})
    worker = granted.as_role(granted.worker)
    with worker.connection() as connection:
        connection.execute(forged, {"source": source})
    worker.engine.dispose()


def test_what_runs_with_its_owners_rights_is_open_to_nobody_else(granted: Roles) -> None:
    """But the fence before the application's own tables, whoever writes there."""
    nobody = f"nobody_{uuid4().hex[:8]}"
    with granted.owner.connection() as connection:
        connection.execute(text(f"CREATE ROLE {nobody}"))
        connection.execute(text(f"GRANT {nobody} TO CURRENT_USER"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA tenure TO {nobody}"))
        for role, names in ((nobody, set()), (granted.web, set(WEB_FUNCTIONS))):
            callable_by = connection.execute(
                text("""
                    SELECT proname FROM pg_proc
                     WHERE pronamespace = 'tenure'::regnamespace AND prosecdef
                       AND has_function_privilege(:role, oid, 'EXECUTE')"""),
                {"role": role},
            ).scalars()
            assert set(callable_by) == names | {"refuse_fenced", "refuse_fenced_ids"}
        connection.execute(text(f"DROP OWNED BY {nobody}"))
        connection.execute(text(f"DROP ROLE {nobody}"))


def test_a_worker_does_everything_and_owns_nothing(granted: Roles, ports: Ports) -> None:
    """Every task of the timetable, from a statement that is due to the certificate of an erasure."""
    with granted.owner.transaction() as session:
        leaving, staying = (
            an_account(session, ref=ref, period_start=datetime.now(UTC).date() - timedelta(days=70))
            for ref in ("acme", "other")
        )
        for each in (leaving, staying):
            a_contact(session, each)
            an_entry(session, each, 5_000)
    store_file(granted.owner, ports.objects, ports.keyring, account="acme", name="plan.pdf", content=[b"x"])
    with granted.owner.transaction() as session:
        session.execute(text("""SELECT tenure.request('terminations.request', '{"account": "acme"}', 'over')"""))
    worker = granted.as_role(granted.worker)
    app = Celery("roles", set_as_current=False)
    for module in walk_packages(tasks.__path__, "tasks."):
        import_module(module.name)
    app.finalize()
    ways.provide(lambda: replace(ports, database=worker, terms=Terms(grace=timedelta(0)), quiet=timedelta(0)))
    ends = monotonic() + deadline(60)
    try:
        while _stage(granted.owner) != "certified":
            assert monotonic() < ends, f"{_stage(granted.owner)}: {_errors(granted.owner)}"
            for entry in TIMETABLE:
                app.tasks[entry.task].run()
            _fetch(worker)
    finally:
        worker.engine.dispose()
    assert _errors(granted.owner) == []
    with granted.owner.connection() as connection:
        assert connection.execute(text("SELECT count(*) FROM tenure.statements WHERE state = 'done'")).scalar_one()
        mails = connection.execute(
            text("SELECT count(*) FROM tenure.email_messages WHERE account_id <> :id AND state = 'done'"),
            {"id": leaving.id},
        )
        assert mails.scalar_one()
    for refused in (
        "DROP TABLE tenure.accounts",
        "ALTER TABLE tenure.accounts DISABLE TRIGGER ALL",
        "TRUNCATE tenure.ledger_entries",
    ):
        with pytest.raises(DBAPIError, match=r"must be owner|permission denied"), worker.connection() as connection:
            connection.execute(text(refused))
    worker.engine.dispose()


def _fetch(database: Database) -> None:
    """What the download page notes when the record that was announced has left as a whole."""
    with database.transaction() as session:
        page = session.scalars(
            text("SELECT context ->> 'page' FROM tenure.email_messages WHERE state = 'done' AND context ? 'page'")
        ).first()
        found = downloads.find(session, page.rpartition("/")[2]) if page else None
        if found is not None and found.termination.content_size is not None:
            downloads.received(session, found, 0, found.termination.content_size)


def _stage(database: Database) -> str:
    with database.connection() as connection:
        return str(connection.execute(text("SELECT max(stage) FROM tenure.terminations")).scalar_one())


def _errors(database: Database) -> list[Any]:
    """What failed, of all work."""
    tables = sorted(mapper.class_.__tablename__ for mapper in Base.registry.mappers if issubclass(mapper.class_, Work))
    with database.connection() as connection:
        return [
            f"{table}: {row.last_error}"
            for table in tables
            for row in connection.execute(text(f"SELECT last_error FROM tenure.{table} WHERE state = 'failed'"))
        ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the role of the workers, of the web tier, or both"),
        (("--worker", "nobody"), "there is no role nobody: CREATE ROLE nobody LOGIN PASSWORD '…'"),
        (("--worker", "{web}", "--web", "{web}"), "cannot be both"),
        (("--web", "{owner}"), "who owns the tables, or a member of it"),
    ],
)
def test_roles_that_would_not_do_are_refused_in_a_sentence(
    roles: Roles, tenure: Run, arguments: tuple[str, ...], said: str
) -> None:
    owner = roles.owner.engine.url.username or ""
    run = tenure("roles", *(each.format(web=roles.web, owner=owner) for each in arguments), "--apply")
    assert (run.returncode, said in run.stderr) == (2, True), run.stderr
    assert run.stdout == ""


def test_only_the_owner_grants(granted: Roles, tenure: Run) -> None:
    address = granted.as_role(granted.worker).engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    run = tenure("roles", "--web", granted.web, "--apply", TENURE_DATABASE_URL=address)
    assert (run.returncode, "who owns the schema tenure, can grant these" in run.stderr) == (2, True), run.stderr
