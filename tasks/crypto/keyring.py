"""The keys of accounts: made when something is first sealed, opened when it is read, destroyed with what they open.

An account's secret lies in PostgreSQL wrapped by a key-encryption key from the settings (T17, T27): a copy of the
database opens nothing without the settings, and the settings open nothing without the database. The first of the
key-encryption keys wraps what is new, all of them open what is old: so they are changed without a day on which
something cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.customers.account_key import AccountKey, KeyPurpose
from tasks.crypto.age import Identity, Recipient
from tasks.crypto.wrapping import SETTING, wrapping_keys
from tasks.failures import Permanent, Unavailable

_NONCE = 12
#: What a wrapped key is read as.
WRAPPED: Final = (
    AccountKey.id, AccountKey.account_id, AccountKey.recipient, AccountKey.wrapped_secret, AccountKey.wrapped_by
)  # fmt: skip


class WrappedKey(NamedTuple):
    """A row of `tenure.account_keys`, as far as opening it needs it. Without `wrapped_secret` it was destroyed."""

    id: UUID
    account_id: UUID
    recipient: bytes
    wrapped_secret: bytes | None
    wrapped_by: str


class Keyring:
    """The key-encryption keys of `TENURE_KEY_ENCRYPTION_KEYS`. An empty one seals and opens nothing."""

    def __init__(self, setting: str = "") -> None:
        self._setting = setting

    @cached_property
    def _keys(self) -> Mapping[str, AESGCM]:
        try:
            return {name: AESGCM(key) for name, key in wrapping_keys(self._setting).items()}
        except ValueError as error:
            raise Permanent(f"Nothing can be encrypted: {error}. Set it, then retry.") from None

    def present(self) -> None:
        """Raises Unavailable where there is no key-encryption key: no account is to blame, and another process may do.

        For work that goes by batches. An export asks `recipient`, which stops it.
        """
        if not self._setting:
            raise Unavailable(
                f"Nothing can be encrypted or read: {SETTING} is not set. Set it for this process; until then the work "
                "waits."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the key-encryption keys, in order. Raises Permanent where the setting is wrong."""
        return tuple(self._keys)

    @property
    def current(self) -> str:
        """The name of the one that wraps what is new. Raises Permanent where there is none."""
        if not self._keys:
            raise Permanent(f"Nothing can be encrypted: {SETTING} is not set. Set it, then retry.")
        return self.names[0]

    def make(self, account_id: UUID) -> WrappedKey:
        """A new key for the account, in no database yet. Raises Permanent where it cannot be wrapped."""
        return self._wrapped(Identity.generate(), uuid4(), account_id)

    def rewrapped(self, row: WrappedKey) -> WrappedKey:
        """The same key, wrapped by the current key-encryption key. Raises as `open`."""
        return self._wrapped(self.open(row), row.id, row.account_id)

    def _wrapped(self, identity: Identity, row_id: UUID, account_id: UUID) -> WrappedKey:
        name, nonce = self.current, os.urandom(_NONCE)
        wrapped = nonce + self._keys[name].encrypt(nonce, identity.secret, _bound(row_id, account_id))
        return WrappedKey(row_id, account_id, identity.recipient.public, wrapped, name)

    def recipient(self, session: Session, account_id: UUID, archive: UUID) -> Recipient:
        """For whom to seal an archive of the account: its key, made now if there is none.

        Raises Permanent where nothing can be sealed: the caller stops, and never writes in the clear.
        """
        made = self.make(account_id)._asdict()
        session.execute(
            insert(AccountKey).values(purpose=KeyPurpose.EXPORT, subject=archive, **made).on_conflict_do_nothing()
        )
        # Another one's row, if it was quicker, or was made before.
        row = self._row(session, account_id, KeyPurpose.EXPORT, archive)
        # That what is sealed can be opened again is tried before anything is sealed, not when the customer asks for it.
        return self.open(row).recipient

    def identity(
        self, session: Session, account_id: UUID, purpose: KeyPurpose, subject: UUID | None = None
    ) -> Identity:
        """What opens it. Raises Permanent where the key was destroyed or cannot be unwrapped."""
        return self.open(self._row(session, account_id, purpose, subject))

    @staticmethod
    def _row(session: Session, account_id: UUID, purpose: KeyPurpose, subject: UUID | None) -> WrappedKey:
        found = session.execute(
            select(*WRAPPED).where(
                AccountKey.account_id == account_id,
                AccountKey.purpose == purpose,
                AccountKey.subject.is_not_distinct_from(subject),
            )
        ).one_or_none()
        if found is None:
            raise Permanent("There is no key for this: nothing was sealed for the account yet.")
        return WrappedKey(*found)

    def open(self, row: WrappedKey) -> Identity:
        """What a wrapped key holds. Raises Permanent where it was destroyed, or cannot be unwrapped."""
        if row.wrapped_secret is None:
            raise Permanent("The key was destroyed: what it sealed cannot be read any more, nor can more be sealed.")
        key = self._keys.get(row.wrapped_by)
        if key is None:
            raise Permanent(
                f"The account's key is wrapped by key-encryption key {row.wrapped_by}, which is not among those of "
                f"{SETTING}: add it there, then retry."
            )
        nonce, wrapped = row.wrapped_secret[:_NONCE], row.wrapped_secret[_NONCE:]
        try:
            identity = Identity(key.decrypt(nonce, wrapped, _bound(row.id, row.account_id)))
        except InvalidTag:
            raise Permanent("The account's key was changed in the database: it cannot be unwrapped.") from None
        if identity.recipient.public != row.recipient:
            raise Permanent("The account's key was changed in the database: its two halves do not belong together.")
        return identity


def destroy(session: Session, account_id: UUID, purpose: KeyPurpose, subject: UUID | None = None) -> bool:
    """Destroy a key for good (T27). The caller commits; whether there was one to destroy."""
    gone = session.execute(
        update(AccountKey)
        .where(
            AccountKey.account_id == account_id,
            AccountKey.purpose == purpose,
            AccountKey.subject.is_not_distinct_from(subject),
            AccountKey.wrapped_secret.is_not(None),
        )
        .values(wrapped_secret=None, destroyed_at=func.clock_timestamp())
        .returning(AccountKey.id)
    )
    return gone.first() is not None


def _bound(row_id: UUID, account_id: UUID) -> bytes:
    """What is authenticated with a wrapped secret, so that it cannot be moved to another row or account."""
    return b"tenure account key" + row_id.bytes + account_id.bytes
