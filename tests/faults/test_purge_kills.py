"""A purge dies at every boundary (W17, T4): it goes on where it was, counts right, and touches nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.purge.retentions import END
from tasks.termination.advancing import PURGE
from tests.faults.places import all_failpoints
from tests.support.rows.company import an_account
from tests.support.rows.marked import a_marked_customer, freeze
from tests.support.rows.purging import a_delivered_termination, counts, everything, failure, passes
from tests.support.rows.terminating import stage
from tests.support.servers.erasure_server import TOKEN, erasure_server
from tests.support.time.deadlines import deadline
from workers.adapters.payments.stripe import StripeGateway
from workers.app import app
from workers.local.servers.payments import PaymentProvider
from workers.settings.settings import parse
from workers.wiring import bootstrap

#: The places of the sweep of retentions. Of a purge those within it: around its step are those of every step.
RETENTIONS = "retentions.end:"
EVERY_STEP = ("before_act", "after_act", "after_record", "before_fail_commit")
POINTS = sorted(
    point for point in all_failpoints() if point.startswith("terminations.purge:") and not point.endswith(EVERY_STEP)
)
#: That one fails there is not what a sweep does.
SWEPT = sorted(
    point for point in all_failpoints() if point.startswith(RETENTIONS) and not point.endswith("before_fail_commit")
)

PROCESS = """
import sys
from tasks.engine.drain import drain
from tasks.purge.retentions import END
from tasks.termination.advancing import PURGE
from workers.wiring import bootstrap
from workers.app import app
from workers.settings.settings import settings

drain({"purge": PURGE, "end": END}[sys.argv[1]], bootstrap.ports(settings(), app))
"""
PROCESSOR = """
    [[processor]]
    name = "Mailing list"
    receives = "addresses"
    purge = "delete the subscriber"
    address_from = "LIST_URL"
    token_from = "LIST_TOKEN"
"""
BILLS = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.bill (id int PRIMARY KEY, owner text NOT NULL, dated date);
    CREATE INDEX ON shop.bill (owner);
    INSERT INTO shop.bill SELECT n, CASE WHEN n % 2 = 0 THEN 'gone' ELSE 'other' END, now()::date - 4000
      FROM generate_series(1, 20) AS n"""
DATAMAP = """
    [[table]]
    name = "shop.bill"
    category = "P2.1c"
    paths = ["owner = account.ref"]
    key = ["id"]
    exported = ["id", "owner", "dated"]
    [table.retention]
    legal_basis = "§ 132 BAO"
    duration = "P7Y"
    counted_from = "dated"
"""


@pytest.fixture
def environment(servers: Mapping[str, str], database_url: str) -> dict[str, str]:
    """Of a process that works on this test's database."""
    return dict(servers) | {"TENURE_DATABASE_URL": database_url}


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as provider:
        yield provider


def dies(what: str, point: str, environment: Mapping[str, str]) -> None:
    died = subprocess.run(
        [sys.executable, "-c", PROCESS, what],
        env=dict(os.environ) | dict(environment) | {"TENURE_FAILPOINTS": f"{point}=kill"},
        capture_output=True,
        timeout=deadline(60),
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stdout.decode() + died.stderr.decode()


@pytest.mark.parametrize("point", POINTS)
def test_death_in_a_purge(
    point: str, environment: dict[str, str], database: Database, ports: Ports, provider: PaymentProvider
) -> None:
    leaving = a_marked_customer(ports, "leaving")
    a_marked_customer(ports, "leaving2", "another9")
    freeze(database, leaving)
    a_delivered_termination(ports, leaving)
    before, others = counts(ports, leaving)["main"], everything(ports, leaving)
    stripe = {"TENURE_STRIPE_SECRET_KEY": provider.secret_key, "TENURE_STRIPE_API": provider.address}
    dies("purge", point, environment | stripe)
    assert stage(database)[0] in ("delivered", "purging")
    assert everything(ports, leaving) == others

    gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
    again = replace(ports, payments=gateway, quiet=timedelta(0))
    for _ in range(4):
        drain(PURGE, again)
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))
    gateway.close()
    assert stage(database) == ("verifying", None), failure(database)
    assert counts(ports, leaving)["main"] == {name: int(name == "tenure.accounts") for name in before}
    assert everything(ports, leaving) == others
    first = {row.store: row for row in passes(database) if row.pass_number == 1}
    assert {name: first[name].removed for name in before} == before
    assert {row.store for row in first.values() if row.removed != row.expected} == set()
    assert list(ports.objects.list(f"files/{leaving.id}/")) == []


@pytest.mark.parametrize("point", ["before_elsewhere", "after_elsewhere"])
def test_death_while_a_processor_erases(
    point: str, environment: dict[str, str], ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = ports.database
    with database.transaction() as session:
        leaving = an_account(session, ref="leaving")
        account = AccountKeys(leaving.id, leaving.ref)
    freeze(database, account)
    a_delivered_termination(ports, account)
    (tmp_path / "datamap.toml").write_text(PROCESSOR, encoding="utf-8")
    with erasure_server(leaving=3, leaving2=5) as server:
        told = {"LIST_URL": server.address, "LIST_TOKEN": TOKEN, "TENURE_DATAMAP": str(tmp_path / "datamap.toml")}
        dies("purge", f"terminations.purge:{point}", environment | told)
        assert ("leaving" in server.records) is (point == "before_elsewhere")
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        again = replace(ports, company=bootstrap.ports(parse(environment | told), app).company, quiet=timedelta(0))
        for _ in range(4):
            drain(PURGE, again)
            with database.connection() as connection:
                connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))
        assert stage(database) == ("verifying", None), failure(database)
        assert server.records == {"leaving2": 5}
    assert [(row.expected, row.removed) for row in passes(database) if row.kind == "processor"] == [(3, 3), (0, 0)]


@pytest.mark.parametrize("point", SWEPT)
def test_death_when_a_retention_ends(
    point: str, environment: dict[str, str], database: Database, ports: Ports, tmp_path: Path
) -> None:
    (tmp_path / "datamap.toml").write_text(DATAMAP, encoding="utf-8")
    with database.transaction() as session:
        gone = an_account(session, ref="gone", status="frozen")
        account = AccountKeys(gone.id, gone.ref)
    termination = a_delivered_termination(ports, account)
    with database.connection() as connection:
        connection.exec_driver_sql(BILLS.replace("%", "%%"))
        connection.execute(
            text("""
                INSERT INTO tenure.retentions (termination_id, account_id, account_ref, place, store, legal_basis,
                                               duration, rows)
                VALUES (:termination, :account, 'gone', 'main', 'shop.bill', '§ 132 BAO', 'P7Y', 10)"""),
            {"termination": termination, "account": account.id},
        )
    environment["TENURE_DATAMAP"] = str(tmp_path / "datamap.toml")
    dies("end", point, environment)
    made = bootstrap.ports(parse(environment), app)
    again = replace(ports, company=made.company)
    for _ in range(2):
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.retentions SET due_at = now() WHERE state = 'pending'"))
        drain(END, again)
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.retentions SET due_at = now() WHERE state = 'pending'"))
    with database.connection() as connection:
        kept = connection.execute(text("SELECT state, account_ref, removed, last_error FROM tenure.retentions")).one()
        assert tuple(kept) == ("done", None, 10, None)
        assert connection.execute(text("SELECT count(*) FROM shop.bill")).scalar_one() == 10
        certified = connection.execute(text("SELECT count(*) FROM tenure.certificates WHERE kind = 'retention'"))
        assert certified.scalar_one() == 1
