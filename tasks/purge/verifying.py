"""VERIFY: whether anything of the account is left, looked for in another way than it was deleted (T24).

Each table of the map is counted once more, and beside the map every table whose foreign key leads to `tenure.accounts`:
what nobody mapped would be found there. A server of keys is gone through whole, and its keys are compared here. What a
pass has removed is held against the customer's record. Where something is left, another pass is made; where passes do
not help, a person is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select, text

from models.data_map.live_catalogue import read
from models.data_map.map import MAIN, Name, RedisKeys, relation
from models.termination.purge import StoreKind
from models.termination.termination import Stage, Step
from tasks.cases.case import Case, Next, StepResult
from tasks.engine.job import ClaimedRow
from tasks.failures import Permanent
from tasks.ports.context import BROKER, Estate
from tasks.purge import stores
from tasks.purge.order import ACCOUNTS, stays
from tasks.purge.tables import Tables, key

#: After so many passes that left something, a person has to find out who writes; each one after it is asked for.
MOST_PASSES: Final = 5

_ASKED = text("SELECT FROM tenure.termination_steps WHERE id = :step AND evidence ? 'asked'")
_ASK = text("""
    UPDATE tenure.termination_steps SET evidence = evidence || '{"asked": true}' WHERE id = :step""")


def verify(case: Case, claimed: ClaimedRow) -> StepResult:
    """Stays in verifying; something left leads back to purging."""
    found = {name: left for name, left in _left(case, claimed) if left}
    differing = _differing(case, claimed)
    if differing:
        raise Permanent(
            f"Of {differing[0]}, and the record does not say so: no certificate can be made of it. Look at "
            "tenure.purge_stores, and decide with whoever answers for the data."
        )
    if not found:
        return StepResult(
            changes={"verified_at": func.clock_timestamp()}, evidence={"left": 0}, steps=(Next(Step.CERTIFY),)
        )
    some = ", ".join(f"{left:,} in {name}" for name, left in sorted(found.items())[:3])
    if case.number + 2 > MOST_PASSES and not _was_asked(claimed):
        raise Permanent(
            f"After {case.number + 2} passes something is left or comes again: {some}. Find out who writes it, then "
            "retry: another pass removes what is left."
        )
    return StepResult(
        stage=Stage.PURGING,
        evidence={"left": found},
        steps=(Next(Step.PURGE_AGAIN, number=case.number + 1, due=timedelta(0)),),
    )


def _was_asked(claimed: ClaimedRow) -> bool:
    """Whether a person was asked already, and has retried; notes that one is asked now."""
    with claimed.ports.database.connection() as connection:
        if connection.execute(_ASKED, {"step": claimed.id}).first() is not None:
            return True
        connection.execute(_ASK, {"step": claimed.id})
    return False


def _left(case: Case, claimed: ClaimedRow) -> Iterator[tuple[str, int]]:
    """How much each store holds, by its name."""
    estate = claimed.ports.estate()
    tables = Tables(estate, case.account)
    for rows in tables:
        if rows.table.retention is None:
            yield ".".join(key(rows.table)), tables.left(rows)
    with claimed.ports.database.connection() as connection:
        yield from _referring(connection, case, {rows.table.name for rows in tables if stays(rows.table)}, estate)
    for store in stores.stores(claimed.ports, estate, case.account):
        if store.kind is not StoreKind.REDIS:
            yield f"{store.kind} {store.name}", store.left()
        if isinstance(store, stores.Objects):
            yield f"unfinished uploads below {store.name}", store.unfinished()
    for keys in estate.map.redis:
        yield f"redis {keys.pattern}", _keys(estate, keys, case)


def _referring(connection: Connection, case: Case, staying: set[Name], estate: Estate) -> Iterator[tuple[str, int]]:
    """Rows that refer to the account, in whatever table, whether the map names it or not."""
    # What the map says to leave alone stands there with its reason, which the customer has read.
    left_alone = {each.name for each in estate.map.unmapped if each.database == MAIN}
    for table, foreign_key in read(connection).referring.get(ACCOUNTS, ()):
        if table.name in staying | left_alone or len(foreign_key.columns) != 1:
            continue
        rows = relation(table.name, *foreign_key.columns)
        counted = select(func.count()).select_from(rows).where(rows.c[foreign_key.columns[0]] == case.account.id)
        yield f"{table.name} by {foreign_key.name}", connection.execute(counted).scalar_one()


def _keys(estate: Estate, keys: RedisKeys, case: Case) -> int:
    pattern = re.compile(glob(keys.of(case.account)), re.DOTALL)
    store = estate.keys[keys.address_from or BROKER]
    return len({key for some in store.keys("*") for key in some if pattern.fullmatch(key)})


def glob(pattern: str) -> bytes:
    """A pattern as SCAN takes it, as a regular expression over bytes."""
    written, at = b"", 0
    raw = pattern.encode()
    while at < len(raw):
        each = raw[at : at + 1]
        if each == b"*":
            written += b".*"
        elif each == b"?":
            written += b"."
        elif each == b"[" and (end := raw.find(b"]", at + 1)) > 0:
            inside = raw[at + 1 : end]
            written += b"[" + inside.replace(b"\\", b"\\\\").replace(b"[", b"\\[") + b"]"
            at = end
        elif each == b"\\" and at + 1 < len(raw):
            at += 1
            written += re.escape(raw[at : at + 1])
        else:
            written += re.escape(each)
        at += 1
    return written


def _differing(case: Case, claimed: ClaimedRow) -> list[str]:
    """The tables of which the first pass removed something else than the record holds (T11)."""
    with claimed.ports.database.connection() as connection:
        rows: Any = connection.execute(
            text("""
                SELECT store, expected, removed, kept FROM tenure.purge_stores
                 WHERE termination_id = :termination AND pass_number = 1 AND kind = 'table'
                   AND removed + kept <> expected ORDER BY number"""),
            {"termination": case.id},
        ).all()
    return [f"{row.store} {row.removed + row.kept:,} rows were purged and not {row.expected:,}" for row in rows]
