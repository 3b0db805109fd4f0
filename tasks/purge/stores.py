"""What of an account lies in no table: objects, keys in Redis, what processors outside hold (T20, T21, T27).

Each store says how much it holds, removes it in batches under its checkpoint, and says what is left. What is asked of a
store twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final, Protocol
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from models.customers.account_key import KeyPurpose
from models.data_map.map import MAIN, AccountKeys, ObjectPrefix, RedisKeys
from models.termination.purge import Method, StoreKind
from tasks.crypto.keyring import destroy
from tasks.export.archive import folder
from tasks.failures import Permanent
from tasks.ports.context import BROKER, Estate, Ports
from tasks.ports.keys import KeyStore
from tasks.ports.objects import Locked, StoredVersion
from tasks.purge import processors
from tasks.purge.checkpoints import Checkpoint, Planned, StaysForNow
from tasks.purge.neighbours import patterns, refuse_neighbours

#: Versions of objects that are removed in one request.
OBJECTS: Final = 1_000
#: The longest that is waited until objects that are locked are looked at again.
LONGEST_LOOK: Final = timedelta(days=1)

#: Keys stay as proof when they are destroyed, so these are always the same.
_DISCLOSED: Final = text("""
    SELECT subject FROM tenure.account_keys
     WHERE account_id = :account AND purpose = 'export' AND subject NOT IN (SELECT id FROM tenure.terminations)
     ORDER BY subject""")


class Store(Protocol):
    """A store that is no table."""

    kind: StoreKind
    place: str
    name: str
    method: Method

    def left(self) -> int:
        """How much of the account it holds now. Raises Unavailable or Permanent."""

    def purge(self, checkpoint: Checkpoint) -> None:
        """Remove it; raises `StaysForNow` where something has to stay for now."""


def stores(ports: Ports, estate: Estate, account: AccountKeys) -> list[Store]:
    """All of them, in the order of their purge. Raises Permanent where one cannot be reached for want of a setting."""
    with ports.database.connection() as connection:
        refuse_neighbours(connection, patterns(estate.map), account)
    return [
        *processors.customers(ports, account),
        *processors.others(estate, account),
        *(Keys(each, key_store(estate, each), account) for each in estate.map.redis),
        *(Objects.of(each, ports, account) for each in estate.map.objects),
        *disclosed(ports, account),
        ObjectsKey(ports, account),
    ]


def planned(store: Store) -> Planned:
    return Planned(store.kind, store.place, store.name, store.method, store.left())


def key_store(estate: Estate, keys: RedisKeys) -> KeyStore:
    """The server in which they lie. Raises Permanent where its address is not set."""
    name = keys.address_from or BROKER
    if name not in estate.keys:
        raise Permanent(f"The address of the Redis keys {keys.pattern}, {name}, is not set: set it, then retry.")
    return estate.keys[name]


class Objects:
    """Objects below one prefix, or several that are told as one."""

    kind = StoreKind.OBJECTS
    method = Method.DELETED

    def __init__(self, name: str, prefixes: Sequence[str], ports: Ports, *, bucket: str | None = None) -> None:
        self.place = bucket or ""
        self.name = name
        self._objects = ports.objects
        self._bucket = bucket
        self._prefixes = prefixes
        if not all(each.endswith("/") and each != "/" for each in prefixes):
            raise Permanent(f"The prefix {name} is not one account's: end it with a slash.")

    @classmethod
    def of(cls, prefix: ObjectPrefix, ports: Ports, account: AccountKeys) -> Objects:
        """Those of the account below a prefix of the data map."""
        return cls(prefix.prefix, [prefix.of(account)], ports, bucket=prefix.bucket)

    def left(self) -> int:
        return sum(1 for _ in self._versions())

    def unfinished(self) -> int:
        """Uploads that were begun and not completed: what was sent of them is stored, and no version yet."""
        return sum(self._objects.unfinished(each, bucket=self._bucket) for each in self._prefixes)

    def _versions(self) -> Iterator[StoredVersion]:
        for each in self._prefixes:
            yield from self._objects.versions(each, bucket=self._bucket)

    def purge(self, checkpoint: Checkpoint) -> None:
        checkpoint.begin(self.left)
        # Uploads first: one that is completed before its turn has come is found among the versions.
        with checkpoint.deleting():
            for each in self._prefixes:
                self._objects.abandon(each, bucket=self._bucket)
        locked: list[Locked] = []
        found = self._versions()
        while some := list(islice(found, OBJECTS)):
            checkpoint.elsewhere(len(some), partial(self._remove, some, locked))
        if locked:
            checkpoint.wait(len(locked), self._said(locked))
            raise StaysForNow(self._said(locked), _wait(locked))
        checkpoint.end()

    def _remove(self, some: Sequence[StoredVersion], locked: list[Locked]) -> int:
        kept = self._objects.remove(some, bucket=self._bucket)
        locked.extend(kept)
        return len(some) - len(kept)

    def _said(self, locked: Sequence[Locked]) -> str:
        ends = [each.until for each in locked if each.until is not None]
        until = f" until {max(ends).astimezone(UTC):%Y-%m-%d %H:%M} UTC" if len(ends) == len(locked) else ""
        return (
            f"{len(locked):,} versions below {self.name} are locked by the object store{until} (Object Lock): they go "
            "when the lock ends or is taken away."
        )


class Disclosed(Objects):
    """Records that were made for disclosures, where a process died before it erased its own (T29), with their keys."""

    def __init__(self, archives: Sequence[UUID], ports: Ports, account: AccountKeys) -> None:
        super().__init__("archives of disclosures", [folder(each) for each in archives], ports)
        self._archives, self._account = archives, account

    def purge(self, checkpoint: Checkpoint) -> None:
        # First, as everywhere: without it no copy can be read.
        with checkpoint.deleting() as connection, Session(connection) as session:
            for each in self._archives:
                destroy(session, self._account.id, KeyPurpose.EXPORT, each)
        super().purge(checkpoint)


def disclosed(ports: Ports, account: AccountKeys) -> Iterator[Disclosed]:
    """One, where a disclosure of the account was ever made. A termination's own record ends with its window (T18)."""
    with ports.database.connection() as connection:
        archives = connection.scalars(_DISCLOSED, {"account": account.id}).all()
    if archives:
        yield Disclosed(archives, ports, account)


def _wait(locked: Iterable[Locked]) -> timedelta:
    ends = [each.until - datetime.now(UTC) for each in locked if each.until is not None]
    return max(timedelta(minutes=1), min([*ends, LONGEST_LOOK]))


class Keys:
    """Keys in Redis by one pattern."""

    kind = StoreKind.REDIS
    method = Method.DELETED

    def __init__(self, keys: RedisKeys, store: KeyStore, account: AccountKeys) -> None:
        self.place = keys.address_from or BROKER
        self.name = keys.pattern
        self._store = store
        self._pattern = keys.of(account)

    def left(self) -> int:
        # SCAN may show a key twice.
        return len({key for keys in self._store.keys(self._pattern) for key in keys})

    def purge(self, checkpoint: Checkpoint) -> None:
        checkpoint.begin(self.left)
        found = True
        while found:
            # Until a whole round finds none: a key that comes while it goes on may be missed.
            found = False
            for keys in self._store.keys(self._pattern):
                found = True
                checkpoint.elsewhere(len(keys), partial(self._store.remove, keys))
        checkpoint.end()


class ObjectsKey:
    """The key that opens what is sealed in the object store: without it no copy can be read (T27)."""

    kind = StoreKind.KEY
    place = MAIN
    name = "the key of the account's objects"
    method = Method.DESTROYED

    def __init__(self, ports: Ports, account: AccountKeys) -> None:
        self._ports, self._account = ports, account

    def left(self) -> int:
        with self._ports.database.connection() as connection:
            return int(
                connection.execute(
                    text("""
                        SELECT count(*) FROM tenure.account_keys
                         WHERE account_id = :account AND purpose = 'objects' AND wrapped_secret IS NOT NULL"""),
                    {"account": self._account.id},
                ).scalar_one()
            )

    def purge(self, checkpoint: Checkpoint) -> None:
        def act(connection: Connection) -> int:
            with Session(connection) as session:
                return int(destroy(session, self._account.id, KeyPurpose.OBJECTS))

        checkpoint.begin(self.left)
        checkpoint.here(act)
        checkpoint.end()
