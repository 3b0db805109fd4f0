"""Whose sessions in other programs' stores a sweep leaves alone, and whose it ends before they are over (S6)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from models.data_map import AccountKeys

KEPT = text("""
    SELECT id, ref FROM tenure.accounts AS account
     WHERE status = 'frozen' OR id IN (SELECT account_id FROM tenure.legal_holds WHERE released_at IS NULL)""")
#: A frozen account whose sessions may go: no hold keeps them, and no record holds them already.
_ENDED = """
    SELECT id, ref FROM tenure.accounts AS account
     WHERE status = 'frozen'
       AND id NOT IN (SELECT account_id FROM tenure.legal_holds WHERE released_at IS NULL)
       AND NOT EXISTS (SELECT FROM tenure.terminations AS ending WHERE ending.account_id = account.id
                          AND coalesce(ending.stage_before, ending.stage) NOT IN (
                              'requested', 'grace', 'frozen', 'cancelled'))"""
ENDED = text(f"{_ENDED} ORDER BY id")
IS_ENDED = text(f"SELECT EXISTS ({_ENDED} AND id = :account)")


def kept(connection: Connection) -> Sequence[AccountKeys]:
    """Accounts whose sessions no sweep ends for their age: those under legal hold, and frozen ones, of which the record
    and the purge must find the same rows (T11). Holds are waited for, and wait from now on."""
    connection.execute(text("SELECT tenure.await_holds()"))
    return [AccountKeys(row.id, row.ref) for row in connection.execute(KEPT)]


def ended(connection: Connection) -> Sequence[AccountKeys]:
    """Frozen accounts, whose sessions go at once: unless a hold keeps them, or a record holds them already."""
    return [AccountKeys(row.id, row.ref) for row in connection.execute(ENDED)]


def is_ended(connection: Connection, account: AccountKeys) -> bool:
    """Whether the account is still one of those, until the transaction ends."""
    free = connection.execute(text("SELECT tenure.free_to_delete(:account)"), {"account": account.id}).scalar_one()
    return bool(free and connection.execute(IS_ENDED, {"account": account.id}).scalar_one())
