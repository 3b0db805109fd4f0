"""The transaction in which a purge deletes, and the checkpoint that it leaves (T19, T22).

Each begins by locking the step's row, which fails for a process that was overtaken, and then asks whether a legal hold
keeps the account's data; a hold that is placed meanwhile waits until it has ended. What is deleted elsewhere than in
Tenure's database is deleted while that transaction is open, and noted before and after: a crash in between leaves a
note, and what is left tells how much went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from models.termination.purge import Method, StoreKind
from models.termination.termination import TerminationStep
from models.work.row import Work
from tasks.cases.case import Case, NotYet, OnHold
from tasks.engine.failpoints import failpoint
from tasks.engine.job import AlreadyEnded, ClaimedRow
from tasks.failures import Permanent

#: How long a transaction may wait for a store in another system. PostgreSQL itself ends none before.
OUTSIDE_CALL_TIMEOUT: Final = timedelta(minutes=10)


@contextmanager
def deleting(case: Case, claimed: ClaimedRow) -> Iterator[Connection]:
    """A transaction that may delete the account's data, and commits at its end.

    Raises Settled where the step is no longer ours, OnHold where a legal hold keeps the data, and NotYet where the
    process is asked to stop: nothing was deleted then.
    """
    with may_delete(claimed, TerminationStep, case.account.id) as connection:
        yield connection


@contextmanager
def may_delete(claimed: ClaimedRow, table: type[Work], account: UUID) -> Iterator[Connection]:
    """The same for whatever work row of `table` is in hand."""
    if claimed.ports.stopping():
        raise NotYet("The worker is stopping: the purge goes on where it was.", timedelta(0))
    with claimed.ports.database.connection() as connection:
        # First the step's row is locked, then the account's, and only then is looked for a hold: each by a statement of
        # its own within the function (models/termination/legal_hold.py), and all before the statement that deletes.
        is_free = connection.execute(
            text(f"""
                WITH ours AS MATERIALIZED (
                    SELECT FROM tenure.{table.__tablename__}
                     WHERE id = :row AND claim_token = :token AND state = 'running' FOR SHARE)
                SELECT tenure.free_to_delete(:account), set_config('tenure.purging', CAST(:account AS text), true),
                       set_config('idle_in_transaction_session_timeout', :patience, true)
                  FROM ours"""),
            {
                "row": claimed.id,
                "token": claimed.token,
                "account": account,
                "patience": f"{OUTSIDE_CALL_TIMEOUT.total_seconds():.0f}s",
            },
        ).scalar_one_or_none()
        if is_free is None:
            raise AlreadyEnded
        if not is_free:
            raise OnHold("A legal hold keeps the account's data: the purge goes on when it is released.")
        yield connection


@dataclass(frozen=True, slots=True)
class Planned:
    """A store and what is to be done with it."""

    kind: StoreKind
    place: str
    store: str
    method: Method = Method.DELETED
    #: How much is there, or, of a table in the first pass, in the customer's record.
    expected: int | None = None


def plan(case: Case, claimed: ClaimedRow, pass_number: int, stores: Sequence[Planned]) -> None:
    """Note the stores of a pass, once: what is noted stays as it is."""
    with claimed.ports.database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.purge_stores (termination_id, pass_number, number, kind, place, store, method,
                                                 expected)
                VALUES (:termination, :pass, :number, :kind, :place, :store, :method, :expected)
                ON CONFLICT DO NOTHING"""),
            [
                {
                    "termination": case.id,
                    "pass": pass_number,
                    "number": number,
                    "kind": each.kind,
                    "place": each.place,
                    "store": each.store,
                    "method": each.method,
                    "expected": each.expected,
                }
                for number, each in enumerate(stores, start=1)
            ],
        )


def planned(case: Case, claimed: ClaimedRow, pass_number: int) -> dict[tuple[StoreKind, str, str], Checkpoint]:
    """The checkpoints of a pass, in their order; empty where it has not begun."""
    with claimed.ports.database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT id, kind, place, store, expected, removed, kept, in_flight, done_at IS NOT NULL AS done,
                       coalesce(clock_timestamp() - began_at, interval '0') AS lasted
                  FROM tenure.purge_stores WHERE termination_id = :termination AND pass_number = :pass
                 ORDER BY number"""),
            {"termination": case.id, "pass": pass_number},
        ).all()
    return {
        (StoreKind(row.kind), row.place, row.store): Checkpoint(
            case,
            claimed,
            row.id,
            f"{row.store}",
            row.expected,
            row.removed,
            row.kept,
            row.in_flight,
            row.done,
            row.lasted,
        )
        for row in rows
    }


class StaysForNow(Exception):
    """Something of a store has to stay for a while; all else of the pass is done before it is waited for."""

    def __init__(self, why: str, wait: timedelta) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(slots=True)
class Checkpoint:
    """Where the purge of one store stands, as committed."""

    case: Case
    held: ClaimedRow
    id: UUID
    name: str
    expected: int | None
    removed: int
    kept: int
    in_flight: int
    done: bool
    #: For how long it has been going on, by the database's clock.
    lasted: timedelta

    def begin(self, left: Callable[[], int]) -> None:
        """Note when it began; after a crash, how much the one that crashed has removed."""
        removed = self.removed
        if self.in_flight and self.expected is not None:
            removed = max(removed, self.expected - left())
        with deleting(self.case, self.held) as connection:
            connection.execute(
                text("""
                    UPDATE tenure.purge_stores SET began_at = coalesce(began_at, clock_timestamp()),
                           removed = :removed, in_flight = 0 WHERE id = :id"""),
                {"removed": removed, "id": self.id},
            )
        self.removed, self.in_flight = removed, 0

    def deleting(self) -> AbstractContextManager[Connection]:
        """A transaction that may delete; see `deleting`."""
        return deleting(self.case, self.held)

    def here(self, act: Callable[[Connection], int], *, at_most: int | None = None) -> int:
        """Delete in Tenure's database, and note how much, in one transaction.

        `at_most` is how much there may be altogether: more is a difference from the customer's record, and nothing of
        it is deleted (T11).
        """
        with self.deleting() as connection:
            gone = act(connection)
            self.within(gone, at_most)
            self._note(connection, gone)
            failpoint("terminations.purge", "before_batch_commit")
        failpoint("terminations.purge", "after_batch")
        self.removed += gone
        return gone

    def elsewhere(self, how_many: int, act: Callable[[], int]) -> int:
        """Delete some so many in another system, with a note before and after."""
        self.announce(how_many)
        failpoint("terminations.purge", "before_elsewhere")
        with self.deleting() as connection:
            gone = act()
            failpoint("terminations.purge", "after_elsewhere")
            self._note(connection, gone)
        self.removed += gone
        return gone

    def announce(self, how_many: int) -> None:
        """Note that so many are about to be removed in another system."""
        with self.deleting() as connection:
            connection.execute(
                text("UPDATE tenure.purge_stores SET in_flight = :how_many WHERE id = :id"),
                {"how_many": how_many, "id": self.id},
            )

    def note(self, connection: Connection, gone: int, *, at_most: int | None = None) -> None:
        """Note, in a transaction of the caller's that deletes, how much went; raises as `here` does."""
        self.within(gone, at_most)
        self._note(connection, gone)
        self.removed += gone

    def within(self, more: int, at_most: int | None) -> None:
        """Raises Permanent where so many more are more than there may be (T11): the caller rolls back."""
        if at_most is not None and self.removed + more > at_most:
            raise Permanent(
                f"{self.name} has more rows of the account than the {at_most:,} in the customer's record: they were "
                "written since, past the fence. Nothing more is deleted. Find out who writes them, remove what the "
                "customer does not have, then retry."
            )

    def _note(self, connection: Connection, gone: int) -> None:
        connection.execute(
            text("UPDATE tenure.purge_stores SET removed = removed + :gone, in_flight = 0 WHERE id = :id"),
            {"gone": gone, "id": self.id},
        )

    def pass_over(self, connection: Connection, gone: int, *, at_most: int | None, is_all: bool) -> None:
        """Note, in a transaction of the caller's that deletes, that so many went from the first to the last, or some.

        What is known of it here follows the commit, by `passed_over`. Raises as `here` does.
        """
        self.within(gone, at_most)
        connection.execute(
            text("""
                UPDATE tenure.purge_stores SET began_at = coalesce(began_at, clock_timestamp()),
                       removed = removed + :gone, in_flight = 0,
                       done_at = CASE WHEN :is_all THEN clock_timestamp() END WHERE id = :id"""),
            {"gone": gone, "is_all": is_all, "id": self.id},
        )

    def passed_over(self, gone: int, *, is_all: bool) -> None:
        """What `pass_over` noted is committed."""
        self.removed += gone
        self.done = is_all

    def wait(self, kept: int, remark: str) -> None:
        """Note what has to stay for now, and why."""
        with self.deleting() as connection:
            connection.execute(
                text("UPDATE tenure.purge_stores SET kept = :kept, remark = :remark WHERE id = :id"),
                {"kept": kept, "remark": remark, "id": self.id},
            )

    def end(self, *, removed: int | None = None, kept: int = 0, remark: str | None = None) -> None:
        """Note that nothing is left to be done in this store."""
        with deleting(self.case, self.held) as connection:
            connection.execute(
                text("""
                    UPDATE tenure.purge_stores SET done_at = clock_timestamp(), removed = coalesce(:removed, removed),
                           kept = :kept, remark = :remark WHERE id = :id"""),
                {"removed": removed, "kept": kept, "remark": remark, "id": self.id},
            )
        self.removed = self.removed if removed is None else removed
        self.kept, self.done = kept, True
        failpoint("terminations.purge", "after_store")
