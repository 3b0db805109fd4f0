"""What a step of a termination is given, what it returns, and how it says that it is not its time (T1).

A step is a function `(case: Case, held: Held) -> StepResult` in the table `tasks.termination.steps.STEPS`. It acts with
no transaction open and may run again for the same row, as the `act` of every job. What it returns is recorded in one
transaction with the step's end: the new stage, the evidence, and the rows of the steps that follow. A step that has to
change the stage before it acts, as a purge does before its first delete, commits that by `enter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.data_map.map import AccountKeys
from models.termination.termination import Stage, Step, Termination, TerminationStep
from models.work.row import WorkState
from tasks.engine.job import AlreadyEnded, ClaimedRow
from tasks.failures import Transient


@dataclass(frozen=True, slots=True)
class Case:
    """One step of one termination, as it stood when the step was claimed."""

    #: Of the termination; `claimed.id` is the step's.
    id: UUID
    step: Step
    number: int
    #: The ref is that which the account had at the freeze, not that of its tombstone.
    account: AccountKeys
    #: Detached: its columns can be read, and nothing else.
    termination: Termination
    #: By the database's clock.
    now: datetime

    @property
    def stage(self) -> Stage:
        return self.termination.stage

    @property
    def point(self) -> str:
        """Where the failpoints of this step are."""
        return f"terminations.{self.step}"


class Next(NamedTuple):
    """A step that follows: at an instant, or so long after the step that makes it."""

    step: Step
    number: int = 0
    due: timedelta | datetime = timedelta(0)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step comes to."""

    #: None where the termination stays in its stage.
    stage: Stage | None = None
    #: Columns of the termination that are set with the stage, to values or SQL expressions.
    changes: Mapping[str, Any] = field(default_factory=dict)
    #: What the step saw and did, as JSON without personal data; kept in its row.
    evidence: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Next] = ()
    #: Further effects, in the same transaction.
    record: Callable[[Session], None] = lambda _session: None


class NotYet(Exception):
    """The step waits for what nobody is to blame for: due again after `wait`, with no attempt used up."""

    def __init__(self, why: str, wait: timedelta) -> None:
        super().__init__(why)
        self.wait = wait


class OnHold(Exception):
    """A legal hold forbids to go on: the termination is `held` until that is released; then this step is due (T22)."""


StepFunction = Callable[[Case, ClaimedRow], StepResult]


def enter(
    case: Case,
    claimed: ClaimedRow,
    stage: Stage,
    *,
    effects: Callable[[Session], None] = lambda _session: None,
    **changes: Any,
) -> Case:
    """Commit that the termination is in `stage` from now on, with other columns and with `effects`, which may raise.

    Where it is in that stage already, change nothing.

    Raises Settled where the step is no longer ours, because it was taken over or the termination was cancelled: then
    nothing more is to be touched. The database refuses a stage that may not follow.
    """
    with claimed.ports.database.transaction() as session:
        if not _is_ours(session, claimed):
            raise AlreadyEnded
        found = session.get_one(Termination, case.id, with_for_update=True)
        if found.stage != stage:
            wait_for_others(found)
            effects(session)
            session.execute(update(Termination).where(Termination.id == case.id).values(stage=stage, **changes))
            session.refresh(found)
        session.expunge(found)
    return replace(case, termination=found)


def wait_for_others(termination: Termination) -> None:
    """Raises Transient while the termination stands aside: where another of its steps failed, say."""
    if termination.stage in (Stage.HELD, Stage.FAILED):
        raise Transient(f"The termination is {termination.stage}: this step waits until it goes on.")


def _is_ours(session: Session, claimed: ClaimedRow) -> bool:
    """Whether the step is still held; locks its row. That of the termination is always locked after it."""
    ours = select(TerminationStep.id).where(
        TerminationStep.id == claimed.id,
        TerminationStep.claim_token == claimed.token,
        TerminationStep.state == WorkState.RUNNING,
    )
    return session.scalar(ours.with_for_update()) is not None
