"""`tenure purge`: how far a purge came, store by store (T28), and its repetition after a backup was restored (T26).

It prints stores and counts, and nobody's data. Exit codes: 0 fine, 1 there is no such purge, or something is left to
do, 2 wrong settings.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.termination import replay as replaying
from workers.settings.settings import settings
from workers.terminal.options import as_json
from workers.terminal.output import CommandFailed, print_json, reports_errors
from workers.wiring import bootstrap

purge = click.Group("purge")

#: By the account's ref, before and after the purge, or the termination's id; the newest without one.
_PURGES = text("""
    SELECT termination.id, termination.stage, termination.purge_began_at, step.due_at, step.last_error
      FROM tenure.terminations AS termination JOIN tenure.accounts AS account ON account.id = termination.account_id
      LEFT JOIN LATERAL (
            SELECT due_at, last_error FROM tenure.termination_steps
             WHERE termination_id = termination.id AND state IN ('pending', 'running', 'failed')
             ORDER BY id DESC LIMIT 1) AS step ON true
     WHERE purge_began_at IS NOT NULL
       AND (CAST(:ref AS text) IS NULL OR account.ref IN (:ref, tenure.purged_ref(:ref))
            OR termination.id::text = :ref)
     ORDER BY purge_began_at DESC LIMIT 1""")
_STORES = text("""
    SELECT pass_number, kind, place, store, method, expected, removed, kept, remark, began_at, done_at
      FROM tenure.purge_stores WHERE termination_id = :termination ORDER BY pass_number, number""")


@purge.command()
@click.argument("ref", required=False)
@as_json
@reports_errors
def show(ref: str | None, json: bool) -> None:
    """Show how far a purge came, store by store.

    REF is the ref of an account or the id of a termination. Without it, the newest purge is shown.
    """
    with Database(settings().database_url, pool_size=1).connection() as connection:
        found = connection.execute(_PURGES, {"ref": ref}).one_or_none()
        stores = connection.execute(_STORES, {"termination": found.id}).all() if found else []
    if found is None:
        raise CommandFailed("there is no such purge: give the ref of an account whose purge has begun.")
    if json:
        print_json({"termination": found.id, "stage": found.stage, "stores": [dict(each._mapping) for each in stores]})
        return
    _print(found.id, found.stage, found.last_error, stores)


@purge.command()
@reports_errors
def replay() -> int:
    """Repeat the erasures that a restored backup does not know.

    Run it before workers start. Exits with 1 if something is left to do.
    """
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    ports = bootstrap.ports(settings(), app)
    try:
        done = replaying.replay(ports, told=click.echo)
    finally:
        ports.database.engine.dispose()
    for each in done.left:
        click.echo(f"tenure: {each}", err=True)
    click.echo(_sum(done))
    return int(bool(done.left))


def _sum(done: replaying.Replayed) -> str:
    if not (done.erased or done.certificates or done.left):
        return "The database knows every erasure of the ledger: there is nothing to do again."
    absent = f" ({done.absent} of them of accounts that the backup did not know yet)" if done.absent else ""
    last = (
        "Release the holds (tenure hold list) or mend what the sentences say, then run it again: workers do not "
        "start before."
        if done.left
        else "Workers may start."
    )
    return f"{done.erased} erasures were done again{absent}, {done.certificates} certificates put back. {last}"


def _print(termination: UUID, stage: str, error: str | None, stores: list[Any] | Any) -> None:
    console = Console(highlight=False)
    console.print(f"Termination {termination}: [bold]{stage}[/]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("pass", "store", "what", "there", "gone", "kept", ""):
        table.add_column(heading, justify="left" if heading in ("store", "what", "") else "right")
    for each in stores:
        mark = "[green]✓[/]" if each.done_at else "[yellow]…[/]" if each.began_at else " "
        where = f" ({escape(each.place)})" if each.place not in ("", "main") else ""
        table.add_row(
            str(each.pass_number),
            f"{escape(each.store)}{where}",
            each.method,
            "–" if each.expected is None else f"{each.expected:,}",
            f"{each.removed:,}",
            f"{each.kept:,}" if each.kept else "",
            mark + (f" {escape(each.remark)}" if each.remark else ""),
        )
    console.print(table)
    if error:
        console.print(f"[yellow]{escape(error)}[/]")
