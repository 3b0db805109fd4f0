"""Terminations go on, step by step: each is a work row, and a step's end makes the next one's row (T1, T4).

`terminations.advance` does the short steps; `terminations.export` and `terminations.purge` do those that may take
hours, so that no termination waits behind a large one. Ticked by the relay and the clock. A step that is done twice
finds its stage, its rows and its objects there; one that was cancelled meanwhile is not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from models.customers.account import Account
from models.data_map.map import AccountKeys
from models.termination.termination import Stage, Step, Termination, TerminationStep
from models.work import row
from tasks.cases.case import Case, Next, NotYet, OnHold, StepResult, wait_for_others
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, AlreadyEnded, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.termination.steps import STEPS

log = structlog.get_logger()

#: What a long step may take, after which it is told to stop and then killed. It goes on from its last checkpoint.
SOFT_LIMIT: Final = 12 * 3600
HARD_LIMIT: Final = SOFT_LIMIT + 600

#: What is done for a termination that was taken back, too.
LEFT_TO_DO: Final = frozenset({Step.RETIRE_ARCHIVE})
#: Steps of a termination that stands aside wait: their time comes when it goes on.
_GOING_ON = "(SELECT stage NOT IN ('held', 'failed') FROM tenure.terminations WHERE terminations.id = termination_id)"

_NEXT = text("""
    INSERT INTO tenure.termination_steps (termination_id, step, number, due_at)
    VALUES (:termination, :step, :number, coalesce(CAST(:at AS timestamptz), clock_timestamp() + :wait))
    ON CONFLICT (termination_id, step, number) DO NOTHING""")
#: How far it was while it went on (`progress.py`) says nothing any more.
_KEEP = text("""
    UPDATE tenure.termination_steps SET evidence = evidence - 'stores' || :evidence WHERE id = :id""").bindparams(
    bindparam("evidence", type_=JSONB)
)
_TOO_LATE = text("""
    UPDATE tenure.termination_steps SET state = 'cancelled', last_error = 'The termination was cancelled meanwhile.'
     WHERE id = :id""")


@dataclass(frozen=True, slots=True)
class Done:
    """What is recorded of a step."""

    case: Case
    result: StepResult


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, Case]:
    rows = session.execute(
        select(TerminationStep, Termination, Account.ref, func.now())
        .join(Termination, Termination.id == TerminationStep.termination_id)
        .join(Account, Account.id == Termination.account_id)
        .where(TerminationStep.id.in_(ids))
    )
    return {
        step.id: Case(
            id=termination.id,
            step=step.step,
            number=step.number,
            account=AccountKeys(termination.account_id, (termination.correspondence or {}).get("account_ref", ref)),
            termination=termination,
            now=now,
        )
        for step, termination, ref, now in rows
    }


def perform(case: Case, claimed: ClaimedRow) -> Done:
    """Do one step. Raises Settled where it has put its row back itself."""
    if case.stage == Stage.CANCELLED and case.step not in LEFT_TO_DO:
        return Done(case, StepResult())
    function = STEPS.get(case.step)
    if function is None:
        raise Permanent(f'This version does not know the step "{case.step}": deploy one that does, then retry.')
    failpoint(case.point, "before_act")
    try:
        result = function(case, claimed)
    except NotYet as wait:
        put_back(claimed, wait.wait, str(wait))
        raise AlreadyEnded from None
    except OnHold as hold:
        stand_aside(case, claimed, str(hold))
        raise AlreadyEnded from None
    failpoint(case.point, "after_act")
    return Done(case, result)


def put_back(claimed: ClaimedRow, wait: timedelta, why: str) -> None:
    with claimed.ports.database.connection() as connection:
        row.release(connection, TerminationStep, claimed.token, [claimed.id], wait=wait, error=why)


def stand_aside(case: Case, claimed: ClaimedRow, why: str) -> None:
    """Put the step back, and hold the termination, together. Its release lets it go on (`go_on_after_hold`, T22)."""
    with claimed.ports.database.transaction() as session:
        if row.release(session.connection(), TerminationStep, claimed.token, [claimed.id], error=why):
            # Whoever releases the hold at the moment waits for this row, or is waited for, and then there is no hold.
            session.execute(select(Termination.id).where(Termination.id == case.id).with_for_update())
            session.execute(
                update(Termination)
                .where(
                    Termination.id == case.id,
                    Termination.stage.not_in((Stage.HELD, Stage.FAILED)),
                    func.tenure.is_held(Termination.account_id),
                )
                .values(stage=Stage.HELD, stage_before=Termination.stage)
            )
    log.info("termination.held", termination=str(case.id), step=case.step)


def record(session: Session, results: Mapping[UUID, Done], _ports: Ports) -> None:
    for step_id, done in results.items():
        _record(session, step_id, done.case, done.result)


def _record(session: Session, step_id: UUID, case: Case, result: StepResult) -> None:
    now = session.get_one(Termination, case.id, with_for_update=True, populate_existing=True)
    if now.stage == Stage.CANCELLED and case.step not in LEFT_TO_DO:
        # The one that cancelled did not see this step, whose row was made or finished at the same time.
        session.execute(_TOO_LATE, {"id": step_id})
        return
    if result.stage is not None and result.stage != now.stage:
        wait_for_others(now)
        _set(session, case.id, {"stage": result.stage, **result.changes})
    elif result.changes:
        _set(session, case.id, result.changes)
    if result.evidence:
        session.execute(_KEEP, {"id": step_id, "evidence": dict(result.evidence)})
    add_steps(session, case.id, result.steps)
    result.record(session)
    failpoint(case.point, "after_record")


def _set(session: Session, termination_id: UUID, values: Mapping[str, Any]) -> None:
    session.execute(
        update(Termination)
        .where(Termination.id == termination_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def add_steps(session: Session, termination_id: UUID, steps: Sequence[Next]) -> None:
    """Make rows of these steps; one that is there already stays as it is."""
    for each in steps:
        wait, at = (each.due, None) if isinstance(each.due, timedelta) else (timedelta(0), each.due)
        session.execute(
            _NEXT, {"termination": termination_id, "step": each.step, "number": each.number, "wait": wait, "at": at}
        )


def _job(task: str, where: str, wakes: Sequence[str]) -> Job[Case, Done]:
    # One at a time: what others could do meanwhile is not held back.
    return Job(
        task=task,
        table=TerminationStep,
        load=load,
        act=perform,
        record=record,
        done="steps",
        batch=1,
        record_every=1,
        where=f"{where} AND {_GOING_ON}",
        wakes=wakes,
        yields_to=(),
        retries=DAYS,
    )


EXPORT = _job("terminations.export", "step = 'export'", ("terminations.advance", "emails.send_urgent"))
PURGE = _job("terminations.purge", "step IN ('purge', 'purge_again', 'verify')", ("terminations.advance",))
#: The other steps by name: during a rolling deploy the next version's steps are left to its workers.
SHORT = sorted({*STEPS} - {Step.EXPORT, Step.PURGE, Step.PURGE_AGAIN, Step.VERIFY})
ADVANCE = _job(
    "terminations.advance",
    f"step IN ({', '.join(repr(step.value) for step in SHORT)})",
    (EXPORT.task, PURGE.task, "emails.send_urgent", "emails.send"),
)


advance = tick(ADVANCE)


export_due = tick(EXPORT, soft_time_limit=SOFT_LIMIT, time_limit=HARD_LIMIT)


purge_due = tick(PURGE, soft_time_limit=SOFT_LIMIT, time_limit=HARD_LIMIT)
