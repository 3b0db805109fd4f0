"""The work functions against a model of them, step by step, over two connections (W19).

Hypothesis makes up histories of claims, endings, lost leases and rescues, each token used again whenever it likes, as a
zombie would; after each step the table is what the model says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, text

from models.base.unit_of_work import Database
from models.work import row as work
from models.work.request import JobRequest

WORKERS = ("host|1|1", "host|2|2")
LEASE = timedelta(hours=1)


@dataclass(frozen=True)
class Row:
    """What the model knows of a row."""

    state: str = "pending"
    token: UUID | None = None
    worker: str | None = None
    attempts: int = 0
    crashes: int = 0


class WorkMachine(RuleBasedStateMachine):
    database: Database

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[UUID, Row] = {}
        self.lapsed: set[UUID] = set()
        with self.database.connection() as connection:
            connection.execute(text("DELETE FROM tenure.job_requests"))

    def _held_by(self, token: UUID) -> list[UUID]:
        return [id_ for id_, row in self.rows.items() if row.token == token and row.state == "running"]

    def _change(self, ids: list[UUID], **values: Any) -> None:
        for id_ in ids:
            self.rows[id_] = replace(self.rows[id_], **values)
            if values.get("state", "running") != "running":
                self.lapsed.discard(id_)

    @rule(count=st.integers(1, 4))
    def ask(self, count: int) -> None:
        with self.database.connection() as connection:
            for _ in range(count):
                id_ = connection.execute(
                    text("INSERT INTO tenure.job_requests (kind, args) VALUES ('model', '{}') RETURNING id")
                ).scalar_one()
                self.rows[id_] = Row()

    @rule(target=tokens, limit=st.integers(1, 3), worker=st.sampled_from(WORKERS), suspects=st.booleans())
    def claim(self, limit: int, worker: str, suspects: bool) -> UUID:
        with self.database.connection() as connection:
            claimed = self._claim(connection, limit, worker, suspects)
        self._was_claimed(claimed, limit, worker, suspects)
        return claimed.token

    @rule(target=tokens, limit=st.integers(1, 3), kept=st.booleans())
    def claim_beside_an_open_claim(self, limit: int, kept: bool) -> UUID:
        """Two connections claim at once; the first commits after the second, or not at all."""
        with self.database.engine.connect() as first, self.database.connection() as second:
            open_claim = self._claim(first, limit, WORKERS[0], False)
            beside = self._claim(second, limit, WORKERS[1], False)
            assert not set(open_claim.ids) & set(beside.ids)
            if kept:
                first.commit()
                self._take(open_claim, WORKERS[0])
            else:
                first.rollback()
        self._take(beside, WORKERS[1])
        return beside.token

    def _claim(self, connection: Connection, limit: int, worker: str, suspects: bool) -> work.Claim:
        return work.claim(connection, JobRequest, limit, worker=worker, lease=LEASE, suspects=suspects)

    def _was_claimed(self, claimed: work.Claim, limit: int, worker: str, suspects: bool) -> None:
        due = [id_ for id_, row in self.rows.items() if row.state == "pending" and (row.crashes > 0) is suspects]
        assert set(claimed.ids) <= set(due)
        assert len(claimed.ids) == min(len(due), 1 if suspects else limit)
        self._take(claimed, worker)

    def _take(self, claimed: work.Claim, worker: str) -> None:
        for id_ in claimed.ids:
            before = self.rows[id_]
            self.rows[id_] = replace(
                before, state="running", token=claimed.token, worker=worker, attempts=before.attempts + 1
            )

    @rule(token=tokens)
    def finish(self, token: UUID) -> None:
        """Of all rows there are, only those that the token holds are finished."""
        with self.database.connection() as connection:
            finished = work.finish(connection, JobRequest, token, self.rows)
        held = self._held_by(token)
        assert finished == set(held)
        self._change(held, state="done")

    @rule(token=tokens, permanent=st.booleans())
    def fail(self, token: UUID, permanent: bool) -> None:
        with self.database.connection() as connection:
            ended = work.fail(
                connection, JobRequest, token, dict.fromkeys(self.rows, "It went wrong."), permanent=permanent
            )
        held = self._held_by(token)
        lost = [id_ for id_ in held if permanent or self.rows[id_].attempts >= JobRequest.max_attempts]
        assert ended == set(lost)
        self._change(held, state="pending", token=None, worker=None)
        self._change(lost, state="failed")
        self._all_due()

    @rule(token=tokens)
    def release(self, token: UUID) -> None:
        with self.database.connection() as connection:
            released = work.release(connection, JobRequest, token, self.rows)
        held = self._held_by(token)
        assert released == len(held)
        for id_ in held:
            self._change([id_], state="pending", token=None, worker=None, attempts=self.rows[id_].attempts - 1)

    @rule(token=tokens)
    def renew(self, token: UUID) -> None:
        with self.database.connection() as connection:
            assert work.renew(connection, JobRequest, token, LEASE) == len(self._held_by(token))
        self.lapsed -= set(self._held_by(token))

    @rule(token=tokens)
    def lose_the_lease(self, token: UUID) -> None:
        """The process is frozen, and its hour passes."""
        with self.database.connection() as connection:
            connection.execute(
                text("""
                    UPDATE tenure.job_requests SET lease_until = now() - interval '1 second'
                     WHERE claim_token = :token AND state = 'running'"""),
                {"token": token},
            )
        self.lapsed |= set(self._held_by(token))

    @rule()
    def rescue(self) -> None:
        with self.database.connection() as connection:
            assert work.rescue(connection, JobRequest) == len(self.lapsed)
        self._abandoned(sorted(self.lapsed))

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: str) -> None:
        with self.database.connection() as connection:
            assert (worker in work.holders(connection, JobRequest, "host")) == bool(self._of(worker))
            assert work.rescue_dead(connection, JobRequest, [worker]) == len(self._of(worker))
        self._abandoned(self._of(worker))

    def _of(self, worker: str) -> list[UUID]:
        return [id_ for id_, row in self.rows.items() if row.state == "running" and row.worker == worker]

    def _abandoned(self, ids: list[UUID]) -> None:
        for id_ in ids:
            row = self.rows[id_]
            state = "failed" if row.crashes + 1 >= JobRequest.max_attempts else "pending"
            self._change([id_], state=state, token=None, worker=None, crashes=row.crashes + 1)
        self._all_due()

    @rule()
    def retry_by_hand(self) -> None:
        ended = [id_ for id_, row in self.rows.items() if row.state == "failed"]
        with self.database.connection() as connection:
            assert work.retry(connection, JobRequest, self.rows) == set(ended)
        self._change(ended, state="pending", attempts=0, crashes=0)

    def _all_due(self) -> None:
        """Waits pass at once: when a row is due again has its own tests."""
        with self.database.connection() as connection:
            connection.execute(text("UPDATE tenure.job_requests SET due_at = now() WHERE state = 'pending'"))

    @invariant()
    def the_table_is_what_the_model_says(self) -> None:
        with self.database.connection() as connection:
            found = connection.execute(
                text("SELECT id, state, claim_token, claimed_by, attempts, crashes FROM tenure.job_requests")
            )
            told = {row.id: Row(row.state, row.claim_token, row.claimed_by, row.attempts, row.crashes) for row in found}
        assert told == self.rows


@pytest.mark.timeout(240)
def test_the_work_functions_are_what_their_model_says(database: Database) -> None:
    machine = type("Machine", (WorkMachine,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
