"""How far the long steps of a termination are, store by store: what a person who waits for them is shown (T28).

A purge has its checkpoints (`tenure.purge_stores`). An export is one object that is not there until it is whole, so it
has none to go on from: it tells how far it is in the evidence of its step, once a second, until that is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import bindparam

from models.termination.purge import StoreKind
from models.termination.termination import Step
from tasks.cases.case import Case
from tasks.engine.job import ClaimedRow
from tasks.failures import Failure
from tasks.termination import preview

#: Seconds between two notes of an export.
EVERY: Final = 1.0

#: A store as `tenure.purge_stores` and the data map name it: kind, place, name.
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Store:
    """One store in the step that is under way."""

    kind: str
    #: As in `tenure.purge_stores`.
    place: str
    store: str
    #: Rows, objects or keys. None where nothing has been begun.
    done: int | None
    #: None where nobody can tell beforehand.
    total: int | None
    #: For how long it is being worked on, or was.
    seconds: float
    over: bool
    remark: str | None = None

    @property
    def rate(self) -> float | None:
        """So many a second, since it was begun."""
        return self.done / self.seconds if self.done and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Progress:
    """The export or the pass of a purge that is not over."""

    step: str
    number: int
    stores: Sequence[Store]

    @property
    def over(self) -> int:
        return sum(each.over for each in self.stores)

    def done(self, kind: str) -> int:
        return sum(each.done or 0 for each in self.stores if each.kind == kind)

    def total(self, kind: str) -> int:
        return sum(max(each.total or 0, each.done or 0) for each in self.stores if each.kind == kind)


_NOTE = text("""
    UPDATE tenure.termination_steps SET evidence = :evidence
     WHERE id = :id AND claim_token = :token AND state = 'running'""").bindparams(bindparam("evidence", type_=JSONB))
_STEP = text("""
    SELECT step, number, evidence -> 'stores' AS stores FROM tenure.termination_steps
     WHERE termination_id = :termination AND step IN ('export', 'purge', 'purge_again')
       AND state IN ('pending', 'running', 'failed')
     ORDER BY id LIMIT 1""")
_STORES = text("""
    SELECT kind, place, store, CASE WHEN began_at IS NOT NULL THEN removed + kept END AS done, expected AS total,
           coalesce(extract(epoch FROM coalesce(done_at, clock_timestamp()) - began_at), 0) AS seconds,
           done_at IS NOT NULL AS over, remark
      FROM tenure.purge_stores WHERE termination_id = :termination AND pass_number = :pass ORDER BY number""")


def progress(connection: Connection, termination: UUID) -> Progress | None:
    """How far its export or purge is; None where neither has begun, or both are over."""
    step = connection.execute(_STEP, {"termination": termination}).one_or_none()
    if step is None:
        return None
    if step.step == Step.EXPORT:
        stores = [Store(**each) for each in step.stores or ()]
    else:
        # As `tasks/purge/purging.py` counts its passes.
        number = 1 if step.step == Step.PURGE else 2 + step.number
        rows = connection.execute(_STORES, {"termination": termination, "pass": number})
        stores = [Store(**{**row._mapping, "seconds": float(row.seconds)}) for row in rows]
    return Progress(step.step, step.number, stores) if stores else None


class ExportNotes:
    """What `tasks.export` calls while it writes. Nothing that goes wrong with it stops the export."""

    def __init__(self, case: Case, claimed: ClaimedRow) -> None:
        self._held = claimed
        self._totals = totals(case, claimed)
        self._began: dict[Key, float] = {}
        self._ended: dict[Key, float] = {}
        self._last: Key | None = None
        self._next = 0.0

    def __call__(self, made: Mapping[Key, int]) -> None:
        """`made` is how much is written of each store; it is added to while this runs."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        made = dict(made)
        for key in made:
            self._began.setdefault(key, now)
            if self._last is not None and key != self._last:
                self._ended.setdefault(self._last, now)
            self._last = key
        # What nobody could be shown is no reason to begin a long export anew.
        with suppress(DBAPIError), self._held.ports.database.connection() as connection:
            connection.execute(
                _NOTE,
                {
                    "id": self._held.id,
                    "token": self._held.token,
                    "evidence": {"stores": [asdict(each) for each in self._stores(made, now)]},
                },
            )

    def _stores(self, made: Mapping[Key, int], now: float) -> list[Store]:
        keys = [*self._totals, *(key for key in made if key not in self._totals)]
        return [
            Store(
                *key,
                done=made.get(key),
                total=self._totals.get(key),
                seconds=round(self._ended.get(key, now) - self._began[key], 3) if key in made else 0.0,
                over=key in made and key != self._last,
            )
            for key in keys
        ]


def totals(case: Case, claimed: ClaimedRow) -> dict[Key, int | None]:
    """How much there is to export of each store, in the order in which it is done."""
    found: dict[Key, int | None] = {}
    ports, estate = claimed.ports, claimed.ports.estate()
    for name, database in estate.databases.items():
        tables = [each for each in estate.map.tables if each.database == name]
        try:
            with database.snapshot() as session:
                counted = preview.counts(session, case.account, tables)
        except DBAPIError:
            # The export itself says in words what is wrong with it.
            counted = {}
        found |= {(StoreKind.TABLE, name, str(each.name)): counted.get(at) for at, each in enumerate(tables)}
    for prefix in estate.map.objects:
        if prefix.left_out is not None:
            continue
        key = (StoreKind.OBJECTS, prefix.bucket or "", prefix.prefix)
        try:
            found[key] = sum(1 for _ in ports.objects.list(prefix.of(case.account), bucket=prefix.bucket))
        except Failure:
            found[key] = None
    return found


def as_dict(seen: Progress | None) -> dict[str, Any] | None:
    """For `--json`."""
    if seen is None:
        return None
    stores = [{**asdict(each), "rate": each.rate and round(each.rate, 1)} for each in seen.stores]
    return {"step": seen.step, "number": seen.number, "stores": stores}
