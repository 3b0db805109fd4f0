"""The keys of what is stored for accounts: one an account, for all of its objects, until the purge (T27).

Work goes by batches, so keys do. `object_keys` reads those of a batch's accounts in one query. Which of them have none
shows when one of them is asked for; then all that are missing are made at once. An account has one row for good,
destroyed or not, and only an active account is given one: `models/schema/sql/200_account_keys.sql` keeps that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.customers.account_key import AccountKey, KeyPurpose
from tasks.crypto.age import Identity, Recipient
from tasks.crypto.keyring import WRAPPED, Keyring, WrappedKey
from tasks.failures import Permanent

#: In the order of the accounts: of two workers that make the keys of the same accounts, the second one waits for the
#: first, and neither for the other. The lock on the account waits for a freeze under way, and makes one wait for us.
MADE = text("""
    INSERT INTO tenure.account_keys (id, account_id, purpose, recipient, wrapped_secret, wrapped_by)
    SELECT made.id, account.id, 'objects', made.recipient, made.secret, :wrapped_by
      FROM (SELECT id FROM tenure.accounts WHERE id = ANY (CAST(:accounts AS uuid[])) AND status = 'active'
             ORDER BY id FOR KEY SHARE) AS account
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:accounts AS uuid[]), CAST(:recipients AS bytea[]),
                  CAST(:secrets AS bytea[])) AS made (id, account_id, recipient, secret)
        ON made.account_id = account.id
     ORDER BY account.id
        ON CONFLICT DO NOTHING""")


def object_keys(session: Session, accounts: Iterable[UUID]) -> ObjectKeys:
    """The keys of these accounts, as far as there are any, in one query."""
    wanted = sorted(set(accounts))
    return ObjectKeys(wanted, _read(session, wanted))


def _read(session: Session, accounts: Sequence[UUID]) -> dict[UUID, WrappedKey]:
    rows = session.execute(
        select(*WRAPPED).where(AccountKey.account_id.in_(accounts), AccountKey.purpose == KeyPurpose.OBJECTS)
    )
    return {row.account_id: WrappedKey(*row) for row in rows}


class ObjectKeys:
    """Those of a batch. What is asked for another account than `accounts` is a KeyError."""

    def __init__(self, accounts: Collection[UUID], keys: dict[UUID, WrappedKey]) -> None:
        self._accounts = accounts
        self._keys = keys

    def recipient(self, account: UUID, database: Database, keyring: Keyring) -> Recipient:
        """For whom to seal what is stored for the account.

        Raises Unavailable where this process has no key-encryption key, and Permanent where this account's key was
        destroyed or cannot be opened, or the account is not active and has none. Nothing is stored then.
        """
        keyring.present()
        if account not in self._keys:
            self._make([each for each in self._accounts if each not in self._keys], database, keyring)
        if account not in self._keys:
            raise Permanent("The account is not active and has no key: nothing is stored for it any more.")
        # That what is sealed can be opened again is tried before anything is sealed, not when somebody asks for it.
        return keyring.open(self._keys[account]).recipient

    def identity(self, account: UUID, keyring: Keyring) -> Identity:
        """What opens the account's objects. Raises as `recipient`, and Permanent where nothing was sealed yet."""
        keyring.present()
        if account not in self._keys:
            raise Permanent("The account has no key: nothing was stored for it yet.")
        return keyring.open(self._keys[account])

    def _make(self, accounts: Sequence[UUID], database: Database, keyring: Keyring) -> None:
        made = [keyring.make(account) for account in accounts]
        with database.transaction() as session:
            session.execute(
                MADE,
                {
                    "ids": [each.id for each in made],
                    "accounts": [each.account_id for each in made],
                    "recipients": [each.recipient for each in made],
                    "secrets": [each.wrapped_secret for each in made],
                    "wrapped_by": made[0].wrapped_by,
                },
            )
            # Another one's rows, where it was quicker.
            self._keys |= _read(session, accounts)
