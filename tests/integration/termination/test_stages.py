"""Every change of a termination's stage that is not its way is refused by the database, whoever asks for it (T1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.base.unit_of_work import Database
from models.termination.termination import Stage
from tests.support.rows.company import an_account
from tests.support.rows.terminating import a_termination

Standing = tuple[Stage, Stage | None]

ASIDE = (Stage.HELD, Stage.FAILED)
WAY = (
    Stage.REQUESTED, Stage.GRACE, Stage.FROZEN, Stage.EXPORTING, Stage.SEALED, Stage.DELIVERED, Stage.PURGING,
    Stage.VERIFYING, Stage.CERTIFIED,
)  # fmt: skip
#: Of a termination of which nothing was deleted.
FREE = WAY[: WAY.index(Stage.PURGING)]
#: All that a stage asks for, so that the order alone is in question.
ALL = """
    UPDATE tenure.terminations
       SET archive_key = 'k', archive_sha256 = sha256(''), manifest_sha256 = sha256(''), exported_rows = '{}',
           sealed_at = now(), delivered_at = now(), delivered_by = 'download', verified_at = now(),
           certified_at = now(), stage = :stage, stage_before = :before"""
MOVE = text("UPDATE tenure.terminations SET stage = :stage, stage_before = :before")


def lawful(standing: Standing) -> Iterator[Standing]:
    """T1 in other words."""
    stage, before = standing
    at = before or stage
    if at in FREE:
        yield Stage.CANCELLED, None
    if stage in ASIDE:
        yield at, None
        yield from ((aside, at) for aside in ASIDE if aside != stage)
    elif stage in WAY and stage != Stage.CERTIFIED:
        yield WAY[WAY.index(stage) + 1], None
        yield from ((aside, stage) for aside in ASIDE)
        if stage == Stage.VERIFYING:
            # Something was left: it is purged once more.
            yield Stage.PURGING, None


BEGINNINGS: list[Standing] = [
    *((stage, None) for stage in Stage if stage not in ASIDE),
    *((aside, before) for aside in ASIDE for before in WAY[:-1]),
]
ENDS: list[Standing] = [(stage, before) for stage in Stage for before in (None, *Stage)]


@pytest.mark.parametrize("standing", BEGINNINGS, ids=lambda each: "-".join(filter(None, each)))
def test_from_each_stage_only_what_is_its_way(database: Database, standing: Standing) -> None:
    with database.transaction() as session:
        a_termination(session, an_account(session).id)
    with database.engine.connect() as connection:
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text(ALL), {"stage": standing[0], "before": standing[1]})
        connection.execute(text("ALTER TABLE tenure.terminations ENABLE TRIGGER guard"))
        passed = set()
        for end in ENDS:
            savepoint = connection.begin_nested()
            try:
                connection.execute(MOVE, {"stage": end[0], "before": end[1]})
                passed.add(end)
            except IntegrityError:
                pass
            savepoint.rollback()
        connection.rollback()
    assert passed == {standing, *lawful(standing)}
