"""A shop's own database, as it came: one of its 59 customers leaves, and of the others not a byte changes (T24)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path as File

import psycopg
import pytest

from models.base.unit_of_work import Database
from models.data_map import live_catalogue
from models.data_map.map import (
    AccountKeys,
    Category,
    DataMap,
    Ignored,
    MappedTable,
    Path,
    Shared,
    UnmappedTable,
    table_name,
)
from tasks.engine.drain import drain
from tasks.ports.context import Estate, Ports
from tasks.termination.advancing import PURGE
from tests.support.rows.company import an_account
from tests.support.rows.purging import a_delivered_termination, counts, everything, failure
from tests.support.rows.terminating import stage

FILE = File(__file__).parents[4] / "shared" / "data" / "chinook.sql"
CUSTOMER = "customer_id = account.ref"
INVOICE = f"customer_id = chinook.customer.customer_id > {CUSTOMER}"
PATHS = {
    "customer": CUSTOMER,
    "invoice": INVOICE,
    "invoice_line": f"invoice_id = chinook.invoice.invoice_id > {INVOICE}",
}


@pytest.fixture
def shop(database_url: str, ports: Ports) -> Iterator[Ports]:
    if not FILE.exists():
        pytest.skip(f"{FILE} is not there: it holds the Chinook sample database")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA chinook; SET search_path TO chinook")
        connection.execute(FILE.read_text(encoding="utf-8"))
    with ports.database.connection() as connection:
        live = live_catalogue.read(connection)
    mapped = tuple(
        MappedTable(name, Category.SUBMITTED, (Path.parse(path),), live.tables[name].key,
                    tuple(live.tables[name].columns), {})
        for table, path in PATHS.items() for name in [table_name(f"chinook.{table}")]
    )  # fmt: skip
    unmapped = tuple(
        UnmappedTable(name, Ignored("the shop's own people") if name.table == "employee" else Shared("the catalogue"))
        for name in live.tables
        if name.schema == "chinook" and name.table not in PATHS
    )
    yield replace(ports, company=lambda: Estate(DataMap(mapped, unmapped), {}), quiet=timedelta(0))


def test_one_customer_leaves_and_of_the_others_not_a_byte_changes(shop: Ports, database: Database) -> None:
    with database.transaction() as session:
        leaving = AccountKeys(an_account(session, ref="5", status="frozen").id, "5")
        an_account(session, ref="55")
    before, others = counts(shop, leaving)["main"], everything(shop, leaving)
    own = {name: rows for name, rows in before.items() if name.startswith("chinook")}
    assert own == {"chinook.customer": 1, "chinook.invoice": 7, "chinook.invoice_line": 38}
    assert len(others["main chinook.customer"]) == 58
    a_delivered_termination(shop, leaving)
    while drain(PURGE, shop)["steps"]:
        pass
    assert stage(database) == ("verifying", None), failure(database)
    after = counts(shop, leaving)["main"]
    assert {name: rows for name, rows in after.items() if rows} == {"tenure.accounts": 1}
    assert everything(shop, leaving) == others
