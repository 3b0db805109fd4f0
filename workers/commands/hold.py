"""`tenure hold`: legal holds placed, released and listed (T22)."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from models.base.unit_of_work import Database
from workers.settings.settings import settings
from workers.terminal.options import as_json, by_person
from workers.terminal.output import print_json, reports_errors

hold = click.Group("hold", help="What is stored about an account stays until all of its holds are released.")

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


@hold.command()
@click.argument("account", metavar="REF")
@click.option("--reference", required=True, help="The name that a court or an authority gives to the case.")
@click.option("--reason", required=True, help="Why, in words that name no customer.")
@by_person
@reports_errors
def place(account: str, reference: str, reason: str, by: str) -> None:
    """Keep all that is stored about an account.

    Prints the id of the hold.
    """
    _call(
        "SELECT tenure.place_hold(:account, :reference, :reason, :by)",
        {"account": account, "reference": reference, "reason": reason, "by": by},
        "{0}\nNothing of the account is erased until the hold is released: tenure hold release {0}",
    )


@hold.command()
@click.argument("held", metavar="HOLD", type=click.UUID)
@by_person
@reports_errors
def release(held: UUID, by: str) -> None:
    """Release a hold.

    A purge that waited for it continues by itself.
    """
    _call(
        "SELECT CASE WHEN tenure.release_hold(:hold, :by) THEN 'Released: what it alone has kept goes on by itself.'"
        " ELSE 'It was released before.' END",
        {"hold": held, "by": by},
        "{0}",
    )


@hold.command("list")
@click.option("--account", metavar="REF", help="Only holds of this account.")
@click.option("--all", "everything", is_flag=True, help="Released holds, too.")
@as_json
@reports_errors
def list_holds(account: str | None, everything: bool, json: bool) -> None:
    """List the holds in force.

    Shows the stage of the termination that each one stops.
    """
    with Database(settings().database_url, pool_size=1).connection() as connection:
        rows = connection.execute(HOLDS, {"account": account, "all": everything}).all()
    if json:
        print_json([dict(row._mapping) for row in rows])
        return
    if not rows:
        click.echo("No hold is in force." if not everything else "No hold was ever placed.")
        return
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


def _call(sql: str, values: Mapping[str, object], said: str) -> None:
    with Database(settings().database_url, pool_size=1).connection() as connection:
        click.echo(said.format(connection.execute(text(sql), values).scalar_one()))
