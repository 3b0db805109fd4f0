"""Whose sessions in other programs' stores a sweep leaves alone, and whose it ends before they are over (S6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from models.data_map.map import AccountKeys

_HELD = "id IN (SELECT account_id FROM tenure.legal_holds WHERE released_at IS NULL)"
KEPT = text(f"SELECT id, ref FROM tenure.accounts AS account WHERE status = 'frozen' OR {_HELD}")
#: A record of the account's data holds its sessions already, or is about to.
_RECORDED = """EXISTS (SELECT FROM tenure.terminations AS ending WHERE ending.account_id = account.id
                          AND coalesce(ending.stage_before, ending.stage) NOT IN (
                              'requested', 'grace', 'frozen', 'cancelled'))"""
#: A frozen account whose sessions may go: no hold keeps them, and no record holds them already.
_ENDED = f"""
    SELECT id, ref FROM tenure.accounts AS account WHERE status = 'frozen' AND NOT {_HELD} AND NOT {_RECORDED}"""
ENDED = text(f"{_ENDED} ORDER BY id")
IS_ENDED = text(f"SELECT EXISTS ({_ENDED} AND id = :account)")
#: Until the transaction ends, the export of these does not begin.
_FROZEN = text("SELECT FROM tenure.terminations WHERE coalesce(stage_before, stage) = 'frozen' FOR SHARE")
_THIS_ONE = text("SELECT FROM tenure.terminations WHERE account_id = :account FOR SHARE")
NAMED = text(f"""
    SELECT id, ref, held, frozen AND NOT recorded AS ends, frozen AND recorded AS recorded
      FROM (SELECT id, ref, {_HELD} AS held, status = 'frozen' AS frozen, {_RECORDED} AS recorded
              FROM tenure.accounts AS account WHERE status = 'frozen' OR {_HELD}) AS account
     WHERE held OR (frozen AND NOT recorded) ORDER BY id""")


@dataclass(frozen=True, slots=True)
class Named:
    """An account whose sessions do not simply end when they are a day old."""

    keys: AccountKeys
    #: A legal hold keeps what they say.
    held: bool
    #: It is frozen: they end at once.
    ends: bool
    #: It is frozen and exported: they are left to the purge (T11).
    recorded: bool


def named(connection: Connection) -> Sequence[Named]:
    """Those accounts, of which this stays true until the transaction ends: holds and exports wait for it."""
    connection.execute(text("SELECT tenure.await_holds()"))
    connection.execute(_FROZEN)
    rows = connection.execute(NAMED)
    return [Named(AccountKeys(row.id, row.ref), row.held, row.ends, row.recorded) for row in rows]


def kept(connection: Connection) -> Sequence[AccountKeys]:
    """Accounts whose sessions no sweep ends for their age: those under legal hold, and frozen ones, of which the record
    and the purge must find the same rows (T11). Holds are waited for, and wait from now on."""
    connection.execute(text("SELECT tenure.await_holds()"))
    return [AccountKeys(row.id, row.ref) for row in connection.execute(KEPT)]


def ended(connection: Connection) -> Sequence[AccountKeys]:
    """Frozen accounts, whose sessions go at once: unless a hold keeps them, or a record holds them already."""
    return [AccountKeys(row.id, row.ref) for row in connection.execute(ENDED)]


def is_ended(connection: Connection, account: AccountKeys) -> bool:
    """Whether the account is still one of those, until the transaction ends: holds and its export wait for it."""
    connection.execute(_THIS_ONE, {"account": account.id})
    free = connection.execute(text("SELECT tenure.free_to_delete(:account)"), {"account": account.id}).scalar_one()
    return bool(free and connection.execute(IS_ENDED, {"account": account.id}).scalar_one())
