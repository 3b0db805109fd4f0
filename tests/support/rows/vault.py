"""What lies sealed in the object store, read by tests: one way for all of them (T27)."""

from __future__ import annotations

from uuid import UUID

from models.base.unit_of_work import Database
from tasks.crypto.age import Identity, seal
from tasks.crypto.keyring import Keyring
from tasks.ports.context import Ports
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from tests.support.rows.raw_objects import put_raw


def account_of(key: str) -> UUID:
    """Whose an object is: `statements/ACCOUNT/…`, `invoices/ACCOUNT/…`, `files/ACCOUNT/…`."""
    return UUID(key.split("/")[1])


def identity(database: Database, keyring: Keyring, account: UUID) -> Identity:
    with database.transaction() as session:
        return object_keys(session, [account]).identity(account, keyring)


def content(ports: Ports, key: str) -> bytes:
    """What was stored under `key`, opened with its account's key."""
    return sealed_objects.get(ports.objects, key, identity(ports.database, ports.keyring, account_of(key)))


def put(ports: Ports, key: str, body: bytes) -> None:
    """Store `body` as the jobs do, sealed for the account whose key this is."""
    account = account_of(key)
    with ports.database.transaction() as session:
        keys = object_keys(session, [account])
    sealed = b"".join(seal([body], keys.recipient(account, ports.database, ports.keyring)))
    put_raw(ports.objects, key, sealed)
