"""`tenure payments show` and `tenure payments reconcile` (B24)."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table
from sqlalchemy import Connection, Row, text

from models.base.money import Money
from models.base.unit_of_work import Database
from tasks.collection.reconciliation import Compared, compare
from workers.settings.settings import settings
from workers.terminal.options import DAY, as_json
from workers.terminal.output import WrongUse, print_json, reports_errors

payments = click.Group("payments")

ATTEMPTS = text("""
    SELECT invoice.number, attempt.number AS attempt, attempt.id, attempt.state, attempt.outcome, attempt.currency,
           attempt.amount, attempt.local_day, attempt.asked_at, attempt.decline_reason, attempt.decline_code,
           attempt.decline_is_final, attempt.next_attempt_on, attempt.provider_payment, attempt.provider_charge,
           attempt.last_error
      FROM tenure.collection_attempts AS attempt
      JOIN tenure.invoices AS invoice ON invoice.id = attempt.invoice_id
      JOIN tenure.accounts AS account ON account.id = attempt.account_id
     WHERE account.ref = :about OR invoice.number = :about
     ORDER BY invoice.number, attempt.number""")

KNOWN = text("""
    SELECT EXISTS (SELECT FROM tenure.accounts WHERE ref = :about)
        OR EXISTS (SELECT FROM tenure.invoices WHERE number = :about)""")


@payments.command()
@click.argument("about", metavar="INVOICE|ACCOUNT")
@as_json
@reports_errors
def show(about: str, json: bool) -> None:
    """Show the attempts to collect an invoice.

    Give the number of an invoice, or the ref of an account for all of its invoices.
    """
    with Database(settings().database_url, pool_size=1).connection() as connection:
        attempts = connection.execute(ATTEMPTS, {"about": about}).all()
        known = bool(attempts) or _is_known(connection, about)
    if not known:
        raise WrongUse("there is no invoice of that number and no account of that ref.")
    if json:
        print_json([dict(row._mapping) for row in attempts])
        return
    if not attempts:
        click.echo("Nothing was collected, and nothing is being.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("invoice", "no.", "day", "amount", "how it stands", "next", "ids: the provider's, ours"):
        justify: JustifyMethod = "right" if heading in {"no.", "amount"} else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading != "how it stands")
    for row in attempts:
        amount = str(Money(row.amount, row.currency)) if row.amount is not None else ""
        ids = [each for each in (row.provider_payment, row.provider_charge, str(row.id)) if each]
        table.add_row(
            row.number, str(row.attempt), str(row.local_day), amount, _standing(row), str(row.next_attempt_on or ""),
            "\n".join(ids),
        )  # fmt: skip
    Console().print(table)


def _is_known(connection: Connection, about: str) -> bool:
    return bool(connection.execute(KNOWN, {"about": about}).scalar_one())


def _standing(row: Row[Any]) -> str:
    """In words: what was answered, or what is awaited."""
    if row.state in {"failed", "cancelled"}:
        return f"[red]{row.state}[/]: {row.last_error}"
    if row.state == "unknown" or (row.state in {"pending", "running"} and row.asked_at and row.outcome is None):
        return f"[yellow]unknown[/]: {row.last_error or 'the provider is being asked'}"
    if row.outcome == "declined":
        kind = "hard" if row.decline_is_final else "soft"
        return f"[red]declined[/] ({kind}): {row.decline_reason.replace('_', ' ')} ({row.decline_code})"
    if row.outcome is not None:
        colour = "green" if row.outcome == "charged" else "default"
        return f"[{colour}]{row.outcome.replace('_', ' ')}[/]"
    return str(row.state)


@payments.command()
@click.option("--day", type=DAY, metavar="YYYY-MM-DD", help="A day in UTC; without it, from yesterday until now.")
@as_json
@reports_errors
def reconcile(day: datetime | None, json: bool) -> int:
    """Compare the provider's payments with the ledger.

    Records what the ledger lacks. Exits with 1 if they differ after that, or cannot be compared.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.wiring import bootstrap  # noqa: PLC0415 - it imports every adapter

    ports = bootstrap.ports(settings(), app)
    now = datetime.now(UTC)
    begins = datetime.combine(day.date() if day else now.date() - timedelta(days=1), time(), UTC)
    found = compare(ports, begins, begins + timedelta(days=1) if day else now + timedelta(minutes=1))
    _tell(found, json)
    return int(bool(found.differences))


def _tell(found: Compared, json: bool) -> None:
    if json:
        print_json(found)
        return
    click.echo(
        f"{found.movements} charges, refunds and chargebacks at the provider; {found.recorded} were missing in the "
        f"ledger and have been recorded; {len(found.differences)} differ."
    )
    for difference in found.differences:
        click.echo(f"  {click.style('✗', fg='red')} {difference}")
