"""PURGE and PURGE_AGAIN: everything that the data map names, store by store (T19 to T23).

The first pass begins only where nothing is unknown: map and databases agree, each table holds what the customer's
record holds, no row of another customer refers to what goes, and every store answers. What begins ends in `purging`,
from which nobody can cancel. A pass that was broken off goes on where it was: its stores and how far each came are rows
(`models/termination/purge.py`), and what is deleted is not found again.

The second pass comes after a quiet time that is longer than any upload or task can last, since objects and the
databases of others cannot be fenced. It removes what came in meanwhile, and says how much that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from sqlalchemy import func

from models.termination.purge import StoreKind
from models.termination.termination import Stage, Step
from tasks.cases.case import Case, Next, NotYet, StepResult, enter
from tasks.certificates import erasure_notes
from tasks.engine.failpoints import failpoint
from tasks.engine.job import ClaimedRow
from tasks.failures import Permanent
from tasks.purge import stores as elsewhere
from tasks.purge.checkpoints import Checkpoint, Planned, StaysForNow, plan, planned
from tasks.purge.tables import Tables, key
from tasks.purge.tables import planned as planned_table

log = structlog.get_logger()

#: The first pass is held against the customer's record; those that follow find what they find.
FIRST: Final = 1

Checkpoints = Mapping[tuple[StoreKind, str, str], Checkpoint]


def purge(case: Case, claimed: ClaimedRow) -> StepResult:
    """The first pass: delivered -> purging."""
    this = _Pass(case, claimed, FIRST)
    if not planned(case, claimed, FIRST):
        stores = this.look(None if _is_replay(case, claimed) else case.termination.exported_rows or {})
        case = enter(case, claimed, Stage.PURGING, purge_began_at=func.clock_timestamp())
        failpoint("terminations.purge", "after_enter")
        # Outside of the database, and before anything is deleted; not before nobody can cancel (T26).
        erasure_notes.note(claimed.ports, case.id)
        plan(case, claimed, FIRST, stores)
        failpoint("terminations.purge", "after_plan")
    removed = this.run()
    return StepResult(evidence=removed, steps=(Next(Step.PURGE_AGAIN, due=claimed.ports.quiet),))


def purge_again(case: Case, claimed: ClaimedRow) -> StepResult:
    """A pass that follows: purging -> verifying."""
    this = _Pass(case, claimed, FIRST + 1 + case.number)
    if not planned(case, claimed, this.number):
        plan(case, claimed, this.number, this.look(None))
    removed = this.run()
    return StepResult(stage=Stage.VERIFYING, evidence=removed, steps=(Next(Step.VERIFY, number=case.number),))


def _is_replay(case: Case, claimed: ClaimedRow) -> bool:
    """A restored backup may hold other rows than the customer's record does."""
    with claimed.ports.database.transaction() as session:
        return erasure_notes.is_replay(session, case.id)


class _Pass:
    """One pass over all stores."""

    def __init__(self, case: Case, claimed: ClaimedRow, number: int) -> None:
        self._case, self._held = case, claimed
        self.number = number
        estate = claimed.ports.estate()
        self._elsewhere = elsewhere.stores(claimed.ports, estate, case.account)
        self._tables = Tables(estate, case.account)

    def look(self, record: Mapping[str, Mapping[str, int]] | None) -> list[Planned]:
        """What each store holds, compared with the customer's record where there is one to compare with.

        Raises Permanent or Unavailable where the pass must not begin.
        """
        if record is not None:
            counted = self._tables.compare(record)
            self._tables.refuse_strangers()
        else:
            counted = self._tables.count_all()
        return [
            *map(elsewhere.planned, self._elsewhere),
            # Last: the rows tell where the rest is.
            *(planned_table(rows, counted[key(rows.table)]) for rows in self._tables),
        ]

    def run(self) -> dict[str, Any]:
        """Do what is not done yet; how much was removed in this pass, by kind of store."""
        stores = self._checkpoints()
        waiting = self._purge_elsewhere(stores)
        self._purge_tables(stores)
        if waiting:
            raise NotYet(str(waiting[0]), min(each.wait for each in waiting))
        undone = [checkpoint.name for checkpoint in stores.values() if not checkpoint.done]
        if undone:
            raise Permanent(
                f"{undone[0]} was to be purged, and the data map does not name it any more: put it back, then retry."
            )
        removed: dict[str, int] = {}
        for (kind, _, _), checkpoint in stores.items():
            removed[kind] = removed.get(kind, 0) + checkpoint.removed
        log.info("purge.passed", termination=str(self._case.id), number=self.number, **removed)
        return {"pass": self.number, "removed": removed}

    def _checkpoints(self) -> Checkpoints:
        """Where each store stands; one that the data map names since the pass began is planned now."""
        stores = planned(self._case, self._held, self.number)
        new = [elsewhere.planned(each) for each in self._elsewhere if (each.kind, each.place, each.name) not in stores]
        new += [
            planned_table(rows, self._tables.count(rows))
            for rows in self._tables
            if (StoreKind.TABLE, *key(rows.table)) not in stores
        ]
        if not new:
            return stores
        plan(self._case, self._held, self.number, new)
        return planned(self._case, self._held, self.number)

    def _purge_elsewhere(self, stores: Checkpoints) -> list[StaysForNow]:
        waiting: list[StaysForNow] = []
        for store in self._elsewhere:
            checkpoint = stores[store.kind, store.place, store.name]
            if not checkpoint.done:
                try:
                    store.purge(checkpoint)
                except StaysForNow as stays:
                    waiting.append(stays)
        return waiting

    def _purge_tables(self, stores: Checkpoints) -> None:
        checkpoints = {(place, name): each for (kind, place, name), each in stores.items() if kind is StoreKind.TABLE}
        self._tables.purge_all(checkpoints, strict=self.number == FIRST)
