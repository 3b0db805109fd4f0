"""What a termination would export and erase, store by store, with counts; nothing is changed by looking (T28).

Tables are counted in one statement for each database, in one snapshot of it, by the same condition that the export and
the purge use. What would stop an export or a purge is told as an obstacle, before anybody has asked for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Select, func, literal, select, union_all
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.base import SCHEMA
from models.base.unit_of_work import outage_reason
from models.customers.account import Account
from models.data_map import check, live_catalogue
from models.data_map.map import MAIN, AccountKeys, Category, DataMap, MappedTable, Name, Redact, belongs, relation
from models.sessions.session import Session as WebSession
from models.termination.legal_hold import LegalHold
from tasks.failures import Failure
from tasks.ports.context import Estate, Ports
from tasks.purge import processors
from tasks.purge import stores as elsewhere
from tasks.purge.neighbours import patterns, refuse_neighbours

#: They end when the account is frozen (S6), so that the record has none of them.
_SESSIONS: Final = (MAIN, Name(SCHEMA, WebSession.__tablename__))


class Fate(StrEnum):
    """What becomes of what is found."""

    DELETED = "deleted"
    #: The row stays, and says nothing about anybody.
    REDACTED = "redacted"
    #: Kept as long as a law demands it (T8).
    RETAINED = "retained"


class Kind(StrEnum):
    """In the order in which they are told."""

    TABLE = "table"
    OBJECTS = "objects"
    REDIS = "redis"
    PROCESSOR = "processor"


@dataclass(frozen=True, slots=True)
class Store:
    """One place where the account's data lie."""

    kind: Kind
    #: The database or bucket; empty for that of Tenure's settings.
    place: str
    #: As the data map writes it.
    name: str
    category: str
    #: Rows, versions of objects, or keys. None where it cannot be told, or only by the purge itself.
    count: int | None
    #: Bytes of objects.
    size: int | None
    exported: bool
    fate: Fate
    #: Why it is not exported, why it stays, or what is done instead.
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    account: AccountKeys
    status: str
    stores: Sequence[Store]
    #: What would stop the export or the purge, each in a sentence.
    obstacles: Sequence[str]

    def total(self, *kinds: Kind) -> int:
        return sum(each.count or 0 for each in self.stores if each.kind in kinds)


def find(session: Session, ref: str) -> tuple[AccountKeys, str] | None:
    """The account of this ref, and its status; None where there is none that was not purged."""
    row = session.execute(select(Account.id, Account.ref, Account.status).where(Account.ref == ref)).one_or_none()
    return row and (AccountKeys(row.id, row.ref), row.status)


def preview(ports: Ports, account: AccountKeys, status: str) -> Preview:
    """Look at the whole estate. Raises Permanent where the data map cannot be read; what is away is an obstacle."""
    estate = ports.estate()
    obstacles: list[str] = [*_held(ports, account)]
    held = bool(obstacles)
    stores: list[Store] = []
    for name, database in estate.databases.items():
        try:
            with database.snapshot() as session:
                live = live_catalogue.read(session.connection())
                found = [each for each in check.compare(estate.map, {name: live}) if each.stops]
                obstacles += [f"{each.sentence}." for each in found]
                wrong = {each.table for each in found}
                tables = [each for each in estate.map.tables if each.database == name]
                counted = counts(session, account, [each for each in tables if each.name not in wrong])
        except DBAPIError as error:
            obstacles.append(f"The database {name} cannot be read: {outage_reason(error).rstrip('.')}.")
            continue
        stores += [_table(each, counted.get(number), held=held) for number, each in enumerate(tables)]
    stores += _objects(ports, estate.map, account, obstacles)
    stores += _keys(estate, account, obstacles)
    stores += _processors(ports, estate, account, obstacles)
    try:
        with ports.database.connection() as connection:
            refuse_neighbours(connection, patterns(estate.map), account)
    except Failure as failure:
        obstacles.append(str(failure))
    try:
        _ = ports.signer.current
    except Failure as failure:
        obstacles.append(str(failure))
    return Preview(account, status, stores, obstacles)


def counts(session: Session, account: AccountKeys, tables: Sequence[MappedTable]) -> dict[int, int]:
    """Rows of the account by the table's place in the list."""
    if not tables:
        return {}
    queries = [_count(number, each, account) for number, each in enumerate(tables)]
    return {row.number: row.rows for row in session.execute(union_all(*queries))}


def _count(number: int, table: MappedTable, account: AccountKeys) -> Select[Any, Any]:
    return (
        select(literal(number).label("number"), func.count().label("rows"))
        .select_from(relation(table.name))
        .where(belongs(table, account))
    )


def _table(table: MappedTable, count: int | None, *, held: bool) -> Store:
    fate, remark = Fate.DELETED, ""
    # What a hold keeps of them goes into another table, and from there into the record (S6).
    ends = (table.database, table.name) == _SESSIONS and not held
    if table.retention is not None:
        since = f" from {table.retention.counted_from}" if table.retention.counted_from else ""
        fate, remark = Fate.RETAINED, f"{table.retention.legal_basis}: {table.retention.duration}{since}"
    elif isinstance(table.purge, Redact):
        fate, remark = Fate.REDACTED, f"{len(table.purge.columns)} columns blanked"
    if ends:
        remark = "by the freeze, before the record"
    elif not table.exported:
        remark = "; ".join(filter(None, (next(iter(table.left_out.values()), ""), remark)))
    place = "" if table.database == MAIN else table.database
    return Store(
        Kind.TABLE, place, str(table.name), table.category, count, None,
        exported=bool(table.exported) and not ends, fate=fate, remark=remark,
    )  # fmt: skip


def _objects(ports: Ports, mapped: DataMap, account: AccountKeys, obstacles: list[str]) -> Iterator[Store]:
    """All versions are counted, which the purge removes; the size is that of the objects, which the export holds."""
    for prefix in mapped.objects:
        counted: tuple[int | None, int | None] = (None, None)
        try:
            count = elsewhere.Objects.of(prefix, ports, account).left()
            size = sum(each.size for each in ports.objects.list(prefix.of(account), bucket=prefix.bucket))
            counted = (count, size)
        except Failure as failure:
            obstacles.append(f"Objects below {prefix.prefix}: {failure}")
        yield Store(
            Kind.OBJECTS, prefix.bucket or "", prefix.prefix, prefix.category, *counted,
            exported=prefix.left_out is None, fate=Fate.DELETED, remark=prefix.left_out or "",
        )  # fmt: skip
    for left_over in elsewhere.disclosed(ports, account):
        found: int | None = None
        try:
            found = left_over.left()
        except Failure as failure:
            obstacles.append(f"The {left_over.name}: {failure}")
        yield Store(
            Kind.OBJECTS, left_over.place, left_over.name, Category.PLATFORM, found, None, exported=False,
            fate=Fate.DELETED, remark="copies of what the record holds",
        )  # fmt: skip


def _keys(estate: Estate, account: AccountKeys, obstacles: list[str]) -> Iterator[Store]:
    for keys in estate.map.redis:
        count: int | None = None
        try:
            count = elsewhere.Keys(keys, elsewhere.key_store(estate, keys), account).left()
        except Failure as failure:
            obstacles.append(f"Redis keys {keys.pattern}: {failure}")
        yield Store(
            Kind.REDIS, keys.address_from or "", keys.pattern, keys.category, count, None,
            exported=keys.left_out is None, fate=Fate.DELETED, remark=keys.left_out or "",
        )  # fmt: skip


def _processors(ports: Ports, estate: Estate, account: AccountKeys, obstacles: list[str]) -> Iterator[Store]:
    paid: dict[str, int] = {}
    try:
        paid = {each.place: each.left() for each in processors.customers(ports, account)}
    except Failure as failure:
        obstacles.append(f"Payment customers: {failure}")
    listed = {each.name.casefold() for each in estate.map.processors}
    for each in estate.map.processors:
        count = paid.get(each.name.casefold())
        if each.address_from is not None:
            try:
                count = processors.records(estate, each, account).left()
            except Failure as failure:
                obstacles.append(f"Processor {each.name}: {failure}")
        yield _processor(each.name, count, each.purge or "keeps nothing")
    # The purge asks them, whether the data map lists them or not.
    for provider, count in paid.items():
        if provider not in listed:
            yield _processor(provider, count, "payment customers deleted")


def _processor(name: str, count: int | None, remark: str) -> Store:
    return Store(
        Kind.PROCESSOR, "", name, "", count, None, exported=False, fate=Fate.DELETED, remark=remark
    )  # fmt: skip


def _held(ports: Ports, account: AccountKeys) -> Iterator[str]:
    with ports.database.transaction() as session:
        holds = session.execute(
            select(LegalHold.reference, LegalHold.placed_at)
            .where(LegalHold.account_id == account.id, LegalHold.released_at.is_(None))
            .order_by(LegalHold.placed_at)
        )
        for row in holds:
            yield (
                f"The legal hold {row.reference} of {row.placed_at:%Y-%m-%d} keeps all of it: nothing is erased until "
                "it is released (tenure hold release)."
            )
