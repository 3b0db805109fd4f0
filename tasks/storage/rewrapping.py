"""Another key-encryption key: every account's key is wrapped anew, and no object is touched (T27).

What lies in the object store is sealed for the accounts' keys, and these stay as they are; only what wraps them in
`tenure.account_keys` changes. It goes by batches, each a transaction, and may be broken off and begun again at any
time: what is wrapped by the first key of `TENURE_KEY_ENCRYPTION_KEYS` is not looked at any more. Readers notice nothing
as long as both keys stand in the setting, since a row has one wrapping or the other.

A key that was destroyed never comes back: a batch locks its rows before it reads them, and where a purge was first, it
passes them over. It waits for nobody while it holds locks, so neither it nor a purge can keep the other waiting in a
circle; what it passed over is left to its next round, or to the next run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from tasks.crypto.keyring import Keyring, WrappedKey
from tasks.failures import Permanent

#: Keys that are locked at a time, for some hundredths of a second.
BATCH: Final = 500
_FIRST: Final = UUID(int=0)

_WRAPPED_BY = text("""
    SELECT wrapped_by, count(*) AS keys FROM tenure.account_keys WHERE wrapped_secret IS NOT NULL
     GROUP BY wrapped_by ORDER BY wrapped_by""")
_CLAIM = text("""
    SELECT id, account_id, recipient, wrapped_secret, wrapped_by FROM tenure.account_keys
     WHERE id > :after AND wrapped_secret IS NOT NULL AND wrapped_by <> :current
     ORDER BY id LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED""")
_REWRAP = text("""
    UPDATE tenure.account_keys AS key SET wrapped_secret = made.secret, wrapped_by = :current
      FROM unnest(CAST(:ids AS uuid[]), CAST(:secrets AS bytea[])) AS made (id, secret)
     WHERE key.id = made.id AND key.wrapped_secret IS NOT NULL""")


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a run has done, and what it has left."""

    #: The key-encryption key that wraps them now.
    current: str
    rewrapped: int
    #: How many keys are still under another one, by its name.
    remaining: Mapping[str, int]
    #: Why some of them could not be opened, and how many.
    refused: Mapping[str, int]


def wrapped_by(session: Session) -> dict[str, int]:
    """How many keys each key-encryption key wraps, by its name; destroyed ones are under none."""
    return {row.wrapped_by: row.keys for row in session.execute(_WRAPPED_BY)}


def rewrap(database: Database, keyring: Keyring, *, batch: int = BATCH) -> Rewrapped:
    """Wrap every key by the first key-encryption key. Raises Permanent where there is none."""
    current = keyring.current
    done = 0
    while True:
        made, refused = _round(database, keyring, current, batch)
        done += made
        # Whatever was locked a moment ago, or came in behind.
        if not made:
            break
    with database.transaction() as session:
        remaining = {name: keys for name, keys in wrapped_by(session).items() if name != current}
    return Rewrapped(current, done, remaining, refused)


def _round(database: Database, keyring: Keyring, current: str, batch: int) -> tuple[int, Counter[str]]:
    """Once through the table: how many were wrapped anew, and which could not be opened."""
    made, refused, after = 0, Counter[str](), _FIRST
    while True:
        with database.transaction() as session:
            asked = {"after": after, "current": current, "batch": batch}
            rows = [WrappedKey(*row) for row in session.execute(_CLAIM, asked)]
            anew: list[WrappedKey] = []
            for row in rows:
                try:
                    anew.append(keyring.rewrapped(row))
                except Permanent as error:
                    refused[str(error)] += 1
            if anew:
                session.execute(
                    _REWRAP,
                    {
                        "ids": [each.id for each in anew],
                        "secrets": [each.wrapped_secret for each in anew],
                        "current": current,
                    },
                )
        if not rows:
            return made, refused
        made, after = made + len(anew), rows[-1].id
