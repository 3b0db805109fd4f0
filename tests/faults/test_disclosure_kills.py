"""A disclosure dies at every boundary (W17): none is complete that is not logged, and the next one is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import text

from models.unit_of_work import Database
from tests.company import an_account
from tests.faults.places import all_failpoints

#: Its places; those of the export are died at elsewhere.
DISCLOSURE = "disclosure:"
POINTS = sorted(point for point in all_failpoints() if point.startswith(DISCLOSURE))

APPROVE = text("SELECT tenure.note_disclosure(:id, 'approved', :by)")


@pytest.mark.parametrize("point", POINTS)
def test_death_while_a_disclosure_is_made(
    point: str, servers: Mapping[str, str], database_url: str, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
        disclosure = session.execute(text("SELECT tenure.ask_disclosure('acme', '1', '§ 1', 'ines')")).scalar_one()
        for person in ("omar", "yuki"):
            session.execute(
                text("SELECT tenure.note_disclosure(:id, 'approved', :by)"), {"id": disclosure, "by": person}
            )

    def make(out: Path, **failing: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", "disclose", "make", str(disclosure), "--out", str(out)],
            env=dict(os.environ) | dict(servers) | {"TENURE_DATABASE_URL": database_url} | failing,
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    assert make(tmp_path / "first.zip", TENURE_FAILPOINTS=f"{point}=kill") == -signal.SIGKILL
    assert (tmp_path / "first.zip").stat().st_size == 0
    assert make(tmp_path / "second.zip") == 0
    assert (tmp_path / "second.zip").stat().st_size > 0
    with database.connection() as connection:
        made = connection.execute(
            text("SELECT count(*) FROM tenure.disclosure_events WHERE action = 'made'")
        ).scalar_one()
    assert made == (2 if point.endswith("after_note") else 1)
