"""The purge of an account: everything of it goes, nothing else does, and it never begins where something is unknown."""

from __future__ import annotations

import pytest

from models.data_map import AccountKeys
from models.unit_of_work import Database
from tasks.drain import drain
from tasks.ports import Ports
from tasks.termination.advancing import PURGE
from tests.marked import a_marked_customer, freeze
from tests.purging import a_delivered_termination, counts, passes


@pytest.fixture
def leaving(database: Database, ports: Ports) -> AccountKeys:
    account = a_marked_customer(database, ports.objects, "leaving")
    freeze(database, account)
    return account


def test_there_is_something_in_every_table(leaving: AccountKeys, ports: Ports) -> None:
    assert [name for name, rows in counts(ports, leaving)["main"].items() if not rows] == []


def test_all_rows_go(leaving: AccountKeys, database: Database, ports: Ports) -> None:
    before = counts(ports, leaving)
    a_delivered_termination(ports, leaving)
    assert drain(PURGE, ports) == {"steps": 1}
    after = counts(ports, leaving)
    assert after.pop("main") == {name: int(name == "tenure.accounts") for name in before["main"]}
    tables = {row.store: row for row in passes(database) if row.kind == "table"}
    assert {name: row.removed for name, row in tables.items()} == before["main"]
    assert all(row.done_at and row.expected == row.removed for row in tables.values())
