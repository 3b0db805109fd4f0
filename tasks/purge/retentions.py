"""What a law demands to keep goes by itself when its time is over (T8).

A purge leaves the rows of a retained table, redacts at once what the law does not ask for, and makes a work row for
them. That is due when the first row may go; each time, what may go is deleted in batches, as in a purge, and the row is
put back until the next one may. Done twice, nothing is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.data_map.live_catalogue import Catalogue
from models.data_map.map import AccountKeys, MappedTable
from models.termination.retention import Retention
from models.work import row as work
from tasks.cases.case import NotYet, OnHold
from tasks.certificates import certifying
from tasks.engine.failpoints import failpoint
from tasks.engine.job import AlreadyEnded, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.purge import tables
from tasks.purge.checkpoints import may_delete
from tasks.purge.rows import BATCH, Batch, Rows, quoted, unreferenced
from tasks.purge.tables import in_words, reaching, say_who

#: The soonest that is looked again, where something else still refers to rows that may go.
SOONEST: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """A retention, as it stood when it was claimed."""

    id: UUID
    termination_id: UUID
    #: None where all rows are gone, and only the end is to be recorded.
    account: AccountKeys | None
    place: str
    store: str
    legal_basis: str
    duration: str
    rows: int
    retained_at: datetime


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, Kept]:
    found = session.scalars(select(Retention).where(Retention.id.in_(ids)))
    return {
        row.id: Kept(
            id=row.id,
            termination_id=row.termination_id,
            account=AccountKeys(row.account_id, row.account_ref) if row.account_ref else None,
            place=row.place,
            store=row.store,
            legal_basis=row.legal_basis,
            duration=row.duration,
            rows=row.rows,
            retained_at=row.retained_at,
        )
        for row in found
    }


def end(kept: Kept, claimed: ClaimedRow) -> Kept:
    """Delete what may go. Raises Settled where something stays for longer, with the row put back until then."""
    account = kept.account
    if account is None:
        return kept
    estate = claimed.ports.estate()
    found = [each for each in estate.map.tables if (each.database, str(each.name)) == (kept.place, kept.store)]
    if not found or found[0].retention is None:
        raise Permanent(
            f"Rows of {kept.store} are kept by {kept.legal_basis}, and the data map does not say so any more: put its "
            "retention back, then retry."
        )
    live = tables.catalogues(estate)[kept.place]
    database = estate.databases[kept.place]
    rows, ends = over(found[0], live, account, kept), _ends(found[0], kept)
    try:
        for stride in rows.strides(database, batch=BATCH):
            if not sum(_delete(rows, batch, kept, claimed, database) for batch in stride):
                break
        wait = _wait(rows, ends, database)
    except OnHold:
        wait = SOONEST
    except NotYet as stopping:
        wait = stopping.wait
    if wait is not None:
        with claimed.ports.database.connection() as connection:
            work.release(connection, Retention, claimed.token, [claimed.id], wait=wait)
        raise AlreadyEnded
    with may_delete(claimed, Retention, account.id) as connection:
        connection.execute(text("UPDATE tenure.retentions SET account_ref = NULL WHERE id = :id"), {"id": kept.id})
    failpoint("retentions.end", "after_last")
    return kept


def over(table: MappedTable, live: Catalogue, account: AccountKeys, kept: Kept) -> Rows:
    """The rows whose time is over, and to which nothing refers that has to stay for longer."""
    return Rows(
        replace(table, retention=None),
        live,
        account,
        only=f"{_ends(table, kept)} <= clock_timestamp() AND {unreferenced(table.name, live)}",
    )


def _ends(table: MappedTable, kept: Kept) -> str:
    """When the retention of a row ends: counted from its own date, or from the day of the purge."""
    rule = table.retention
    since = f"TIMESTAMPTZ '{kept.retained_at.isoformat()}'"
    if rule is not None and rule.counted_from is not None:
        since = f"coalesce({quoted(rule.counted_from)}::timestamptz, {since})"
    return f"({since} + INTERVAL '{kept.duration}')"


def _delete(rows: Rows, batch: Batch, kept: Kept, claimed: ClaimedRow, database: Database) -> int:
    with in_words(rows.table), may_delete(claimed, Retention, rows.account.id) as main:
        if database is claimed.ports.database:
            gone = rows.remove(main, batch)
        else:
            with database.connection() as connection:
                say_who(connection, rows.account)
                gone = rows.remove(connection, batch)
        main.execute(
            text("UPDATE tenure.retentions SET removed = removed + :gone WHERE id = :id"),
            {"gone": gone, "id": kept.id},
        )
        failpoint("retentions.end", "before_batch_commit")
    return gone


def _wait(rows: Rows, ends: str, database: Database) -> timedelta | None:
    """How long until the next row may go; None where none is left."""
    with reaching(rows.table.database), database.connection() as connection:
        left = rows.soonest(connection, ends)
    return None if left is None else max(left, SOONEST if left <= timedelta(0) else left)


def record(session: Session, results: Mapping[UUID, Kept], ports: Ports) -> None:
    for kept in results.values():
        removed = session.execute(
            text("SELECT removed FROM tenure.retentions WHERE id = :id"), {"id": kept.id}
        ).scalar_one()
        store = {
            "kind": "table", "place": kept.place, "store": kept.store, "method": "deleted", "found": kept.rows,
            "erased": removed, "kept": 0,
        }  # fmt: skip
        certifying.retention_ended(
            session, ports.signer, kept.id, kept.termination_id, {"stores": [store], "legal_basis": kept.legal_basis}
        )


END = Job("retentions.end", Retention, load, end, record, done="ended", batch=1, record_every=1)


end_retentions = tick(END)
