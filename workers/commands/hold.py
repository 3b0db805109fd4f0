"""`tenure hold`: legal holds placed, released and listed (T22)."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from uuid import UUID

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, refusal
from workers.settings.settings import settings
from workers.terminal.output import in_words, print_json

HOLDS = text("""
    SELECT hold.id, account.ref AS account, hold.reference, hold.reason, hold.placed_by, hold.placed_at,
           hold.released_by, hold.released_at, termination.stage
      FROM tenure.legal_holds AS hold
      JOIN tenure.accounts AS account ON account.id = hold.account_id
      LEFT JOIN tenure.terminations AS termination
             ON termination.account_id = hold.account_id AND termination.stage <> 'cancelled'
     WHERE (:all OR hold.released_at IS NULL)
       AND (CAST(:account AS text) IS NULL OR account.ref IN (:account, tenure.purged_ref(:account)))
     ORDER BY hold.placed_at, hold.id""")


def place(account: str, reference: str, reason: str, by: str | None) -> int:
    """Hold an account's data; prints the hold's id. 2 where it is refused."""
    return _asked(
        "SELECT tenure.place_hold(:account, :reference, :reason, :by)",
        {"account": account, "reference": reference, "reason": reason, "by": by or getpass.getuser()},
        "{0}\nNothing of the account is erased until the hold is released: tenure hold release {0}",
    )


def release(hold: UUID, by: str | None) -> int:
    """Release a hold. 2 where it is refused."""
    return _asked(
        "SELECT CASE WHEN tenure.release_hold(:hold, :by) THEN 'Released: what it alone has kept goes on by itself.'"
        " ELSE 'It was released before.' END",
        {"hold": hold, "by": by or getpass.getuser()},
        "{0}",
    )


def list_holds(account: str | None, everything: bool, json: bool) -> int:
    """The holds in force; with `everything`, those that were released, too."""
    with in_words(), Database(settings().database_url, pool_size=1).connection() as connection:
        rows = connection.execute(HOLDS, {"account": account, "all": everything}).all()
    if json:
        print_json([dict(row._mapping) for row in rows])
        return 0
    if not rows:
        click.echo("No hold is in force." if not everything else "No hold was ever placed.")
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("account", "case", "since", "by", "hold", "released"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"since", "hold", "released"})
    for row in rows:
        stage = f" [dim]({row.stage})[/]" if row.stage else ""
        released = f"{row.released_at:%Y-%m-%d} {escape(row.released_by)}" if row.released_at else "[yellow]in force[/]"
        table.add_row(
            escape(row.account) + stage, f"{escape(row.reference)}: {escape(row.reason)}", f"{row.placed_at:%Y-%m-%d}",
            escape(row.placed_by), str(row.id), released,
        )  # fmt: skip
    Console().print(table)
    return 0


def _asked(sql: str, values: Mapping[str, object], said: str) -> int:
    with in_words():
        try:
            with Database(settings().database_url, pool_size=1).connection() as connection:
                click.echo(said.format(connection.execute(text(sql), values).scalar_one()))
        except DBAPIError as error:
            why = refusal(error)
            if why is None:
                raise
            click.echo(f"tenure: {why}", err=True)
            return 2
    return 0
