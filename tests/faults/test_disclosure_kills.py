"""A disclosure dies at every boundary (W17): none is complete that is not logged, and the next one is whole."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models.data_map.map import AccountKeys
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import PURGE
from tasks.termination.preview import preview
from tests.faults.places import all_failpoints
from tests.support.rows.company import an_account
from tests.support.rows.purging import a_delivered_termination, failure
from tests.support.rows.terminating import stage
from tests.support.servers.commands import Commands

#: Its places; those of the export are died at elsewhere.
DISCLOSURE = "disclosure:"
POINTS = sorted(point for point in all_failpoints() if point.startswith(DISCLOSURE))

APPROVE = text("SELECT tenure.note_disclosure(:id, 'approved', :by)")


def archives(ports: Ports, account: AccountKeys) -> tuple[int, int]:
    """Objects that were made for disclosures of the account, and keys that open them."""
    with ports.database.connection() as connection:
        rows = connection.execute(
            text("SELECT subject, wrapped_secret IS NOT NULL AS opens FROM tenure.account_keys WHERE account_id = :id"),
            {"id": account.id},
        ).all()
    lying = [each for row in rows for each in ports.objects.list(f"archives/{row.subject}/")]
    return len(lying), sum(row.opens for row in rows)


@pytest.mark.parametrize("point", POINTS)
def test_death_while_a_disclosure_is_made(
    point: str, *, servers: Mapping[str, str], database_url: str, ports: Ports, tmp_path: Path, commands: Commands
) -> None:
    database = ports.database
    with database.transaction() as session:
        account = AccountKeys(an_account(session, ref="acme").id, "acme")
        disclosure = session.execute(text("SELECT tenure.ask_disclosure('acme', '1', '§ 1', 'ines')")).scalar_one()
        for person in ("omar", "yuki"):
            session.execute(APPROVE, {"id": disclosure, "by": person})

    def make(out: Path, **failing: str) -> int:
        environment = {**servers, "TENURE_DATABASE_URL": database_url} | failing
        return commands.run("disclose", "make", str(disclosure), "--out", str(out), environment=environment).returncode

    assert make(tmp_path / "first.zip", TENURE_FAILPOINTS=f"{point}=kill") == -signal.SIGKILL
    assert (tmp_path / "first.zip").stat().st_size == 0
    assert make(tmp_path / "second.zip") == 0
    assert (tmp_path / "second.zip").stat().st_size > 0
    with database.connection() as connection:
        made = connection.execute(
            text("SELECT count(*) FROM tenure.disclosure_events WHERE action = 'made'")
        ).scalar_one()
    assert made == (2 if point.endswith("after_note") else 1)

    # What the one that died has left in the object store goes with the account, and so does its key.
    assert archives(ports, account) == (1, 1)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen'"))
    a_delivered_termination(ports, account)
    assert "archives of disclosures" in [each.name for each in preview(ports, account, "frozen").stores if each.count]
    quick = replace(ports, quiet=timedelta(0))
    while drain(PURGE, quick)["steps"]:
        pass
    assert stage(database) == ("verifying", None), failure(database)
    assert archives(ports, account) == (0, 0)
