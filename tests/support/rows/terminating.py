"""Terminations for tests: made, and taken on step by step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.termination.termination import Step, Termination, TerminationStep
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE, EXPORT, PURGE

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def a_termination(session: Session, account_id: UUID, *steps: Step, **values: Any) -> Termination:
    """A termination of a contract that is over, in its first stage, with rows for `steps` that are due."""
    termination = Termination(
        **{
            "account_id": account_id,
            "requested_by": "sql",
            "ends_at": LONG_AGO,
            "cancel_until": LONG_AGO,
            **values,
        }
    )
    session.add(termination)
    session.flush()
    session.add_all(TerminationStep(termination_id=termination.id, step=step) for step in steps)
    session.flush()
    return termination


def go_on(ports: Ports) -> None:
    """Do what is due, as the three tasks do, until nothing is."""
    while sum(drain(job, ports)["steps"] for job in (ADVANCE, EXPORT, PURGE)):
        pass


def stage(database: Database) -> tuple[str, str | None]:
    """The one termination's stage, and that before it stood aside."""
    with database.connection() as connection:
        return tuple(connection.execute(select(Termination.stage, Termination.stage_before)).one())


def steps(database: Database) -> dict[str, str]:
    """The state of each step by its name."""
    with database.connection() as connection:
        rows = connection.execute(text("SELECT step, number, state FROM tenure.termination_steps ORDER BY id"))
        return {row.step + (f" {row.number}" if row.number else ""): row.state for row in rows}
