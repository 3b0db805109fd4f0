"""A worker of the last version leaves to those of the next one what only they know (W45)."""

from __future__ import annotations

from sqlalchemy import text

from models.base.unit_of_work import Database
from models.termination.termination import Step
from tasks.client.requests import KINDS
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.requests import handle
from tasks.requests.registry import handled_kinds
from tasks.termination import advancing
from tasks.termination.steps import STEPS


def test_a_request_of_a_kind_of_the_next_version_waits_for_its_worker(database: Database, ports: Ports) -> None:
    with database.connection() as connection:
        connection.execute(text("INSERT INTO tenure.job_requests (kind, args) VALUES ('statements.sing', '{}')"))
    assert drain(handle.HANDLE, ports) == {"handled": 0}
    with database.connection() as connection:
        row = connection.execute(text("SELECT state, attempts FROM tenure.job_requests")).one()
    assert tuple(row) == ("pending", 0)


def test_every_kind_and_step_of_this_version_is_claimed() -> None:
    assert handled_kinds() == {*KINDS}
    claimed = advancing.ADVANCE.where + advancing.EXPORT.where + advancing.PURGE.where
    assert {*STEPS} == {*Step}
    assert [step for step in Step if f"'{step.value}'" not in claimed] == []


def test_a_step_of_the_next_version_waits_for_its_worker(database: Database) -> None:
    """Its name is in no condition by which this version's jobs claim."""
    with database.connection() as connection:
        for job in (advancing.ADVANCE, advancing.EXPORT, advancing.PURGE):
            condition = job.where.partition(" AND ")[0]
            known = connection.execute(text(f"SELECT {condition} FROM (VALUES ('sing')) AS row (step)")).scalar_one()
            assert known is False
