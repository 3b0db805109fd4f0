"""A replay dies at every boundary (W17): run once more, it comes to the same end, whatever was done by then (T26)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys
from tasks.certificates import publishing
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE, PURGE
from tasks.termination.replay import replay
from tests.faults.places import all_failpoints
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.purging import a_delivered_termination, counts
from tests.support.servers.commands import Commands
from tests.support.servers.restoring import backed_up, removed, restored

#: The places of it; what a purge itself can die at is died at elsewhere.
REPLAY = "purge.replay:"
POINTS = sorted(point for point in all_failpoints() if point.startswith(REPLAY))


@pytest.mark.parametrize("point", POINTS)
def test_death_while_erasures_are_done_again(
    point: str, *, servers: Mapping[str, str], database_url: str, ports: Ports, tmp_path: Path, commands: Commands
) -> None:
    with ports.database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
    keys = AccountKeys(account.id, account.ref)
    backup = backed_up(database_url, tmp_path / "backup")
    a_delivered_termination(ports, keys)
    quick = replace(ports, quiet=timedelta(0))
    while drain(PURGE, quick)["steps"] + drain(ADVANCE, quick)["steps"]:
        pass
    drain(publishing.PUBLISH, ports)

    address = restored(backup, database_url)
    try:
        died = commands.run(
            "purge",
            "replay",
            environment={**servers, "TENURE_DATABASE_URL": address, "TENURE_FAILPOINTS": f"{point}=kill"},
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        # What it held is taken back as from any process that is no more.
        again = replace(ports, database=Database(address), dead=list)
        assert replay(again).left == []
        left = counts(again, keys)["main"]
        assert {name for name, rows in left.items() if rows} <= {"tenure.accounts"}
        with again.database.connection() as connection:
            stage = connection.execute(text("SELECT stage FROM tenure.terminations")).scalar_one()
            numbers = connection.execute(text("SELECT number FROM tenure.certificates ORDER BY number")).scalars().all()
        assert (stage, list(numbers)) == ("certified", [1, 2])
        again.database.engine.dispose()
    finally:
        removed(address, database_url)
