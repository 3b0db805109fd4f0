"""Steps of a termination: what becomes of it when a step ends, waits, fails, or meets a hold (T1, T4, T22)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from threading import Thread
from uuid import UUID

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.termination.termination import Stage, Step, TerminationStep
from models.work import row as work
from tasks.cases.case import Case, Next, NotYet, OnHold, StepFunction, StepResult, enter
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow
from tasks.failures import Permanent, Transient
from tasks.ports.context import Ports
from tasks.termination import advancing
from tasks.termination.advancing import ADVANCE
from tests.support.rows.company import an_account
from tests.support.rows.terminating import a_termination, go_on, stage, steps
from tests.support.time.deadlines import deadline

IN_A_YEAR = datetime.now(UTC) + timedelta(days=365)
NOTIFY_TOO = "INSERT INTO tenure.termination_steps (termination_id, step) SELECT id, 'notify' FROM tenure.terminations"


@pytest.fixture
def given(database: Database) -> None:
    """A contract that is over, with a year of grace."""
    with database.transaction() as session:
        a_termination(session, an_account(session, ref="acme").id, Step.BEGIN, cancel_until=IN_A_YEAR)


def only(monkeypatch: pytest.MonkeyPatch, table: Mapping[Step, StepFunction]) -> None:
    monkeypatch.setattr(advancing, "STEPS", table)


def test_a_step_sets_the_stage_and_makes_the_next_one(given: None, database: Database, ports: Ports) -> None:
    assert drain(ADVANCE, ports) == {"steps": 1}
    assert drain(ADVANCE, ports) == {"steps": 0}
    assert stage(database) == ("grace", None)
    assert steps(database) == {"begin": "done", "freeze": "pending"}
    with database.connection() as connection:
        due = connection.execute(text("SELECT due_at FROM tenure.termination_steps WHERE step = 'freeze'")).scalar_one()
    assert due == IN_A_YEAR


def test_a_step_gets_its_case_and_leaves_evidence(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Case] = []

    def begin(case: Case, _claimed: ClaimedRow) -> StepResult:
        seen.append(case)
        return StepResult(
            stage=Stage.GRACE,
            evidence={"rows": 7},
            steps=(Next(Step.REMIND, number=2, due=timedelta(hours=2)),),
            record=lambda session: session.execute(text("UPDATE tenure.accounts SET name = 'recorded'")),
        )

    only(monkeypatch, {Step.BEGIN: begin})
    drain(ADVANCE, ports)
    assert (seen[0].step, seen[0].number, seen[0].account.ref, seen[0].stage) == ("begin", 0, "acme", "requested")
    with database.connection() as connection:
        done, later = connection.execute(
            text("SELECT step, evidence, due_at > now() + interval '1 hour' FROM tenure.termination_steps ORDER BY id")
        )
        assert connection.execute(text("SELECT name FROM tenure.accounts")).scalar_one() == "recorded"
    assert (done, later) == (("begin", {"rows": 7}, False), ("remind", {}, True))


def test_a_step_that_this_version_does_not_know_is_refused_in_a_sentence(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        only(older, {})
        drain(ADVANCE, ports)
    assert stage(database) == ("failed", "requested")
    with database.connection() as connection:
        row = connection.execute(text("SELECT id, last_error FROM tenure.termination_steps")).one()
        assert row.last_error == 'This version does not know the step "begin": deploy one that does, then retry.'
        assert work.retry(connection, TerminationStep, [row.id]) == {row.id}
    assert stage(database) == ("requested", None)
    drain(ADVANCE, ports)
    assert stage(database) == ("grace", None)


def test_a_termination_is_failed_until_all_its_steps_are_tried_again(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_case: Case, _claimed: ClaimedRow) -> StepResult:
        raise Permanent("The key is broken.")

    with database.connection() as connection:
        connection.execute(text(NOTIFY_TOO))
    with monkeypatch.context() as broken:
        only(broken, {Step.BEGIN: fail, Step.NOTIFY: fail})
        drain(ADVANCE, ports)
        assert steps(database) == {"begin": "failed", "notify": "pending"}, "what stands aside goes no further"
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET state = 'failed' WHERE step = 'notify'"))
            first, second = connection.execute(text("SELECT id FROM tenure.termination_steps ORDER BY id")).scalars()
            work.retry(connection, TerminationStep, [first])
    assert stage(database) == ("failed", "requested")
    with database.connection() as connection:
        work.retry(connection, TerminationStep, [second])
    assert stage(database) == ("requested", None)


def test_a_step_that_waits_uses_up_no_attempt(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(_case: Case, _claimed: ClaimedRow) -> StepResult:
        raise NotYet("A payment is under way.", timedelta(minutes=10))

    only(monkeypatch, {Step.BEGIN: wait})
    assert drain(ADVANCE, ports) == {"steps": 0, "settled": 1}
    with database.connection() as connection:
        row = connection.execute(text("SELECT *, due_at - now() AS wait FROM tenure.termination_steps")).one()
    assert (row.state, row.attempts, row.last_error) == ("pending", 0, "A payment is under way.")
    assert timedelta(minutes=9) < row.wait <= timedelta(minutes=10)
    assert stage(database) == ("requested", None)


PLACE = text("SELECT tenure.place_hold('acme', :case, 'a court asks', 'counsel')")
RELEASE = text("SELECT tenure.release_hold(:hold, 'counsel')")


def place(database: Database, case: str) -> UUID:
    with database.connection() as connection:
        return UUID(str(connection.execute(PLACE, {"case": case}).scalar_one()))


def release(database: Database, hold: UUID) -> None:
    with database.connection() as connection:
        assert connection.execute(RELEASE, {"hold": hold}).scalar_one()


def meet_a_hold(_case: Case, _claimed: ClaimedRow) -> StepResult:
    raise OnHold("A legal hold keeps the data.")


@pytest.fixture
def set_aside(given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """A termination that two holds have set aside."""
    holds = [place(database, "case-1"), place(database, "case-2")]
    with monkeypatch.context() as held:
        only(held, {Step.BEGIN: meet_a_hold})
        drain(ADVANCE, ports)
    assert stage(database) == ("held", "requested")
    return holds


def test_a_hold_sets_the_termination_aside_and_the_release_of_the_last_lets_it_go_on(
    set_aside: list[UUID], database: Database, ports: Ports
) -> None:
    assert drain(ADVANCE, ports) == {"steps": 0}
    release(database, set_aside[0])
    assert stage(database) == ("held", "requested")
    assert drain(ADVANCE, ports) == {"steps": 0}
    release(database, set_aside[1])
    assert stage(database) == ("requested", None)
    assert drain(ADVANCE, ports) == {"steps": 1}


def test_holds_that_are_released_at_once_let_it_go_on(set_aside: list[UUID], database: Database) -> None:
    """Neither transaction sees the other's release before that is committed; the later one waits for it."""
    with database.connection() as first:
        first.execute(RELEASE, {"hold": set_aside[0]})
        second = Thread(target=release, args=(database, set_aside[1]))
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join(deadline(10))
    assert stage(database) == ("requested", None)


def test_a_hold_that_is_released_while_a_termination_is_set_aside_lets_it_go_on(
    given: None, database: Database
) -> None:
    hold = place(database, "case-1")
    with database.connection() as setting_aside:
        setting_aside.execute(text("UPDATE tenure.terminations SET stage_before = stage, stage = 'held'"))
        releasing = Thread(target=release, args=(database, hold))
        releasing.start()
        releasing.join(0.3)
        assert releasing.is_alive()
    releasing.join(deadline(10))
    assert stage(database) == ("requested", None)


def test_a_hold_that_was_released_before_its_termination_was_set_aside_does_not_set_it_aside(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = place(database, "case-1")

    met: list[bool] = []

    def released_meanwhile(case: Case, claimed: ClaimedRow) -> StepResult:
        if met:
            # It is due again at once, and nothing holds it any more.
            return StepResult(stage=Stage.GRACE)
        met.append(True)
        release(database, hold)
        return meet_a_hold(case, claimed)

    only(monkeypatch, {Step.BEGIN: released_meanwhile})
    go_on(ports)
    assert (stage(database), steps(database)) == (("grace", None), {"begin": "done"})


def test_nothing_is_recorded_of_a_step_whose_termination_was_cancelled(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled_meanwhile(_case: Case, claimed: ClaimedRow) -> StepResult:
        with claimed.ports.database.connection() as connection:
            connection.execute(text("UPDATE tenure.terminations SET stage = 'cancelled', cancelled_at = now()"))
        return StepResult(stage=Stage.GRACE, steps=(Next(Step.FREEZE),))

    with monkeypatch.context() as racing:
        only(racing, {Step.BEGIN: cancelled_meanwhile})
        go_on(ports)
    assert (stage(database), steps(database)) == (("cancelled", None), {"begin": "cancelled"})
    with database.connection() as connection:
        row = connection.execute(text("SELECT id FROM tenure.termination_steps")).scalar_one()
        work.retry(connection, TerminationStep, [row])
    go_on(ports)
    assert (stage(database), steps(database)) == (("cancelled", None), {"begin": "cancelled"})


def test_a_stage_is_entered_before_the_step_acts_and_only_by_who_holds_the_step(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter_twice_and_lose_it(case: Case, claimed: ClaimedRow) -> StepResult:
        entered = enter(case, claimed, Stage.GRACE)
        assert (entered.stage, stage(database)) == (Stage.GRACE, ("grace", None))
        assert enter(entered, claimed, Stage.GRACE).stage == Stage.GRACE
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET claim_token = gen_random_uuid()"))
        enter(entered, claimed, Stage.FROZEN)
        raise AssertionError("what is not ours is not touched")

    only(monkeypatch, {Step.BEGIN: enter_twice_and_lose_it})
    assert drain(ADVANCE, ports) == {"steps": 0, "settled": 1}
    assert stage(database) == ("grace", None)


def test_a_stage_that_may_not_follow_is_refused_by_the_database(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leap(case: Case, claimed: ClaimedRow) -> StepResult:
        enter(case, claimed, Stage.PURGING)
        raise AssertionError("nothing may be purged that was not exported")

    only(monkeypatch, {Step.BEGIN: leap})
    assert drain(ADVANCE, ports)["retried"] == 1
    assert stage(database) == ("requested", None)


def test_a_step_of_a_termination_that_another_step_set_aside_waits(
    given: None, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def others_fail(case: Case, claimed: ClaimedRow) -> StepResult:
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.terminations SET stage = 'failed', stage_before = stage"))
        with pytest.raises(Transient, match="this step waits until it goes on"):
            enter(case, claimed, Stage.GRACE)
        return StepResult(stage=Stage.GRACE)

    only(monkeypatch, {Step.BEGIN: others_fail})
    assert drain(ADVANCE, ports) == {"steps": 0, "retried": 1}
    assert (stage(database), steps(database)) == (("failed", "requested"), {"begin": "pending"})
