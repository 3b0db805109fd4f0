"""Keys of accounts: made once, wrapped, opened, destroyed (T17, T27)."""

from __future__ import annotations

import base64
import os
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update

from models.base.unit_of_work import Database
from models.customers.account_key import AccountKey, KeyPurpose
from tasks.crypto.age import Identity
from tasks.crypto.keyring import Keyring, destroy
from tasks.failures import Permanent
from tasks.storage.object_keys import object_keys

EXPORT = KeyPurpose.EXPORT


def a_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def account(database: Database) -> UUID:
    with database.connection() as connection:
        made = connection.execute(
            text("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', 'Acme', 'EUR') RETURNING id")
        )
        return UUID(str(made.scalar_one()))


def opened(database: Database, keyring: Keyring, account: UUID, subject: UUID | None, purpose: KeyPurpose) -> Identity:
    with database.transaction() as session:
        return keyring.identity(session, account, purpose, subject)


def test_there_is_one_key_for_each_purpose_and_subject(database: Database, account: UUID) -> None:
    keyring = Keyring(a_key())
    recipients = set()
    for archive in (uuid4(), uuid4()):
        for _ in range(2):
            with database.transaction() as session:
                recipient = keyring.recipient(session, account, archive)
            assert opened(database, keyring, account, archive, EXPORT).recipient.public == recipient.public
            recipients.add(recipient.public)
    for _ in range(2):
        with database.transaction() as session:
            keys = object_keys(session, [account])
        recipient = keys.recipient(account, database, keyring)
        assert opened(database, keyring, account, None, KeyPurpose.OBJECTS).recipient.public == recipient.public
        recipients.add(recipient.public)
    assert len(recipients) == 3


def test_the_secret_is_not_in_the_database(database: Database, account: UUID) -> None:
    keyring, archive = Keyring(a_key()), uuid4()
    with database.transaction() as session:
        keyring.recipient(session, account, archive)
        row = session.scalars(select(AccountKey)).one()
        assert row.wrapped_secret
    assert opened(database, keyring, account, archive, EXPORT).secret not in row.wrapped_secret


def test_key_encryption_keys_are_changed_without_a_gap(database: Database, account: UUID) -> None:
    old, new, archive = a_key(), a_key(), uuid4()
    with database.transaction() as session:
        recipient = Keyring(old).recipient(session, account, archive)
    assert opened(database, Keyring(f"{new}|{old}"), account, archive, EXPORT).recipient.public == recipient.public
    with pytest.raises(Permanent, match="add it there"):
        opened(database, Keyring(new), account, archive, EXPORT)


@pytest.mark.parametrize("setting", ["", "hunter2"])
def test_without_a_key_nothing_is_sealed(database: Database, account: UUID, setting: str) -> None:
    with (
        pytest.raises(Permanent, match=r"Nothing can be encrypted: .*TENURE_KEY_ENCRYPTION_KEYS") as caught,
        database.transaction() as session,
    ):
        Keyring(setting).recipient(session, account, uuid4())
    assert "hunter2" not in str(caught.value)


def test_a_destroyed_key_opens_nothing_and_seals_nothing(database: Database, account: UUID) -> None:
    keyring, archive = Keyring(a_key()), uuid4()
    with database.transaction() as session:
        keyring.recipient(session, account, archive)
    for gone in (True, False):
        with database.transaction() as session:
            assert destroy(session, account, EXPORT, archive) is gone
    with pytest.raises(Permanent, match="was destroyed"):
        opened(database, keyring, account, archive, EXPORT)
    with pytest.raises(Permanent, match="was destroyed"), database.transaction() as session:
        keyring.recipient(session, account, archive)


def test_a_secret_that_was_moved_or_changed_is_refused(database: Database, account: UUID) -> None:
    keyring, first, second = Keyring(a_key()), uuid4(), uuid4()
    with database.transaction() as session:
        for archive in (first, second):
            keyring.recipient(session, account, archive)
        stolen = session.scalars(select(AccountKey.wrapped_secret).where(AccountKey.subject == first)).one()
        session.execute(update(AccountKey).where(AccountKey.subject == second).values(wrapped_secret=stolen))
        session.execute(update(AccountKey).where(AccountKey.subject == first).values(recipient=bytes(32)))
    with pytest.raises(Permanent, match="was changed in the database"):
        opened(database, keyring, account, second, EXPORT)
    with pytest.raises(Permanent, match="do not belong together"):
        opened(database, keyring, account, first, EXPORT)
