"""`tenure purge show`: how far purges came, store by store (T28). It names stores and counts, and nobody's data.

Exit codes: 0 fine, 1 there is no such purge, 2 wrong settings.
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
from workers.settings.settings import settings
from workers.terminal.output import in_words, print_json

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


def show(ref: str | None, json: bool) -> int:
    with in_words():
        database = Database(settings().database_url, pool_size=1)
        with database.connection() as connection:
            purge = connection.execute(_PURGES, {"ref": ref}).one_or_none()
            stores = connection.execute(_STORES, {"termination": purge.id}).all() if purge else []
    if purge is None:
        click.echo("There is no purge of that: give the ref of an account whose purge has begun.", err=True)
        return 1
    if json:
        told = {"termination": purge.id, "stage": purge.stage, "stores": [dict(each._mapping) for each in stores]}
        print_json(told)
        return 0
    _print(purge.id, purge.stage, purge.last_error, stores)
    return 0


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
