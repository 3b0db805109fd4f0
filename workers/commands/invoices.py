"""`tenure invoices`: issue, show and credit invoices by hand.

Exit codes: 0 fine, 1 nothing to show, 2 wrong use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from models.base.money import Money, MoneyError
from models.base.unit_of_work import Database
from tasks.billing.credit_notes import CreditRefused, credit
from tasks.billing.invoice_issue import issue_batch
from tasks.client.documents import open_invoice
from workers.commands.documents import save
from workers.settings.settings import settings
from workers.terminal.options import FILE, as_json
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors
from workers.wiring.bootstrap import letterhead

invoices = click.Group("invoices")

ACCOUNT = text("SELECT id, status, invoiced_from FROM tenure.accounts WHERE ref = :ref")
ISSUED = text("""
    SELECT number, account.ref AS account, invoice.currency, total, due_on
      FROM tenure.invoices AS invoice JOIN tenure.accounts AS account ON account.id = account_id
     WHERE invoice.id = ANY (:ids) ORDER BY series, series_number""")

INVOICE = text("""
    SELECT invoice.id, invoice.number, invoice.kind, invoice.currency, invoice.net, invoice.tax, invoice.total,
           invoice.issued_on, invoice.period_start, invoice.period_end, invoice.reason, account.ref AS account,
           corrected.number AS corrects, balance.due_on, balance.open, balance.credited, balance.disputed,
           balance.state, document.state AS document, document.document_key, document.last_error
      FROM tenure.invoices AS invoice
      JOIN tenure.accounts AS account ON account.id = invoice.account_id
      LEFT JOIN tenure.invoices AS corrected ON corrected.id = invoice.corrects_id
      LEFT JOIN tenure.invoice_balances AS balance ON balance.invoice_id = invoice.id
      LEFT JOIN tenure.invoice_documents AS document ON document.invoice_id = invoice.id
     WHERE invoice.number = :number""")
LINES = text("""
    SELECT line.position, line.occurred_on, line.description, line.tax_category, line.tax_rate, line.net, line.gross,
           coalesce((SELECT sum(gross) FROM tenure.invoice_lines WHERE corrects_id = line.id), 0)::bigint AS credited
      FROM tenure.invoice_lines AS line WHERE invoice_id = :invoice ORDER BY position""")
#: What settled an invoice, less what was taken back; and the credit notes that correct it.
SETTLED = text("""
    SELECT entry.kind, (entry.occurred_at AT TIME ZONE account.time_zone)::date AS occurred_on, entry.description,
           entry.external_ref, sum(allocation.amount)::bigint AS amount
      FROM tenure.open_items AS item
      JOIN tenure.allocations AS allocation ON allocation.debit_id = item.id
      JOIN tenure.open_items AS credit ON credit.id = allocation.credit_id
      JOIN tenure.ledger_entries AS entry ON entry.id = credit.entry_id
      JOIN tenure.accounts AS account ON account.id = item.account_id
     WHERE item.invoice_id = :invoice
     GROUP BY entry.id, account.id HAVING sum(allocation.amount) <> 0 ORDER BY entry.sequence""")
CREDIT_NOTES = text("""
    SELECT number, issued_on, total, reason FROM tenure.invoices WHERE corrects_id = :invoice ORDER BY series_number""")


@invoices.command()
@click.option("--account", metavar="REF", help="Invoice all charges of this account that are on no invoice yet.")
@click.option("--all-due", is_flag=True, help="Invoice every period that has closed, of all accounts.")
@as_json
@reports_errors
def issue(account: str | None, all_due: bool, json: bool) -> None:
    """Issue invoices now.

    What is on an invoice is never invoiced twice.
    """
    if (account is None) is not all_due:
        raise WrongUse("say whose invoices: --account REF, or --all-due for all whose period has closed.")
    company = letterhead(settings()).company
    issued: list[Mapping[str, Any]] = []
    database = _database()
    if account is not None:
        with database.transaction() as session:
            found = session.execute(ACCOUNT, {"ref": account}).one_or_none()
            refusal = _refusal(found)
            if found is None or refusal:
                raise WrongUse(refusal)
            issued = _issued(session, issue_batch(session, company, found.id)[1])
    else:
        while True:
            with database.transaction() as session:
                accounts, made = issue_batch(session, company)
                issued += _issued(session, made)
            if not accounts:
                break
    if json:
        print_json(issued)
    elif not issued:
        click.echo("Every charge that is due is on an invoice already.")
    else:
        table = Table("number", "account", "due on", box=None, pad_edge=False)
        table.add_column("total", justify="right")
        for row in issued:
            table.add_row(row["number"], row["account"], _day(row["due_on"]), _money(row["total"], row["currency"]))
        Console().print(table)
        many = "1 invoice was" if len(issued) == 1 else f"{len(issued):,} invoices were"
        click.echo(f"{many} issued; the workers make and mail the documents.")


@invoices.command()
@click.argument("number")
@click.option("--out", type=FILE, help="Write the PDF that was sent to this file, instead.")
@as_json
@reports_errors
def show(number: str, out: Path | None, json: bool) -> None:
    """Show an invoice or a credit note.

    Prints its lines, what settled it, and what is open.
    """
    with _database().connection() as connection:
        shown = _shown(connection, number)
    if shown is None:
        raise CommandFailed(f"there is no invoice or credit note {number!r}.")
    if out is not None:
        click.echo(save(partial(open_invoice, account=shown["account"], number=number), out))
    elif json:
        print_json(shown)
    else:
        _print_invoice(shown)


@invoices.command("credit")
@click.argument("number")
@click.option("--amount", help="Credit this amount, tax included, such as 12.50.")
@click.option("--lines", metavar="1,3", help="Credit these lines: what is left of them, or --amount of them.")
@click.option("--all", "whole", is_flag=True, help="Credit all that is left, and so void the invoice.")
@click.option("--reason", help="The reason, which is printed on the credit note and in its mail.")
@as_json
@reports_errors
def credit_invoice(
    *, number: str, amount: str | None, lines: str | None, whole: bool, reason: str | None, json: bool
) -> None:
    """Correct an invoice with a credit note.

    The invoice itself never changes.
    """
    if whole is (amount is not None or lines is not None):
        raise WrongUse("say what to take back: --amount 12.50, --lines 1,3, both, or --all that is left.")
    company = letterhead(settings()).company
    try:
        positions = [int(each) for each in lines.split(",")] if lines else []
    except ValueError:
        raise WrongUse(
            f"{lines!r} are no lines: write their numbers as `tenure invoices show` has them, such as 1,3."
        ) from None
    try:
        with _database().transaction() as session:
            invoice = session.execute(INVOICE, {"number": number}).one_or_none()
            if invoice is None:
                raise WrongUse(f"there is no invoice {number!r}.")
            made = credit(
                session,
                company,
                invoice.id,
                amount=None if amount is None else Money.parse(amount, invoice.currency),
                positions=positions,
                reason=reason,
            )
            shown = _shown(session.connection(), made)
    except (CreditRefused, MoneyError) as refusal:
        raise WrongUse(f"nothing was credited: {refusal}") from refusal
    if json:
        print_json(shown)
    elif shown is not None:
        click.echo(f"{made} takes back {_money(shown['total'], shown['currency'])} of {number}.")


def _refusal(account: Any) -> str:
    if account is None:
        return "there is no account of that ref."
    if account.status != "active":
        return f"the account is {account.status}: nothing is invoiced to it any more."
    if account.invoiced_from is None:
        return "the account is not invoiced by Tenure: set accounts.invoiced_from."
    return ""


def _issued(session: Session, invoices: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [dict(row._mapping) for row in session.execute(ISSUED, {"ids": list(invoices)})] if invoices else []


def _shown(connection: Connection, number: str) -> dict[str, Any] | None:
    invoice = connection.execute(INVOICE, {"number": number}).one_or_none()
    if invoice is None:
        return None
    values = {"invoice": invoice.id}
    return {
        **invoice._mapping,
        "lines": [dict(row._mapping) for row in connection.execute(LINES, values)],
        "settled_by": [dict(row._mapping) for row in connection.execute(SETTLED, values)],
        "credit_notes": [dict(row._mapping) for row in connection.execute(CREDIT_NOTES, values)],
    }


def _print_invoice(shown: Mapping[str, Any]) -> None:
    currency = shown["currency"]
    is_invoice = shown["kind"] == "invoice"
    console = Console(highlight=False)
    title = Text(shown["number"], style="bold")
    title.append(f"  {shown['state'].replace('_', ' ')}" if is_invoice else f"  credit note for {shown['corrects']}")
    console.print(title)
    facts = [("account", shown["account"]), ("issued on", _day(shown["issued_on"]))]
    if is_invoice:
        facts += [
            ("period", f"{_day(shown['period_start'])} to {_day(shown['period_end'])}"),
            ("due on", _day(shown["due_on"])),
        ]
    if shown["reason"]:
        facts.append(("reason", shown["reason"]))
    facts.append(("document", shown["last_error"] or shown["document_key"] or shown["document"] or "–"))
    for name, value in facts:
        console.print(Text(f"{name:<11}", style="dim").append(str(value), style="not dim"), soft_wrap=True)
    console.print()
    table = Table("", "date", "description", box=None, pad_edge=False)
    for heading in ("tax", "net", "amount", *(["credited"] if is_invoice else [])):
        table.add_column(heading, justify="right")
    for line in shown["lines"]:
        cells: list[str | Text] = [
            str(line["position"]),
            _day(line["occurred_on"]),
            Text(line["description"]),
            _tax(line),
        ]
        cells += [_figure(line["net"], currency), _figure(line["gross"], currency)]
        if is_invoice:
            cells.append(_figure(line["credited"], currency) if line["credited"] else "")
        table.add_row(*cells)
    totals: list[str | Text] = ["", "", Text("Total", style="bold"), "", _figure(shown["net"], currency)]
    totals.append(Text(_money(shown["total"], currency), style="bold"))
    table.add_row(*totals)
    console.print(table)
    if not is_invoice:
        return
    settled = Table(box=None, pad_edge=False, show_header=False)
    settled.add_column()
    settled.add_column()
    settled.add_column()
    settled.add_column(justify="right")
    for row in shown["settled_by"]:
        settled.add_row(
            row["kind"], _day(row["occurred_on"]), Text(row["description"]), _figure(-row["amount"], currency)
        )
    settled.add_row(Text("open", style="bold"), "", "", Text(_money(shown["open"], currency), style="bold"))
    if shown["disputed"]:
        settled.add_row("disputed", "", "", _money(shown["disputed"], currency))
    console.print()
    console.print(settled)


def _tax(line: Mapping[str, Any]) -> str:
    return f"{line['tax_rate'] / 100:g} %" if line["tax_rate"] else line["tax_category"]


def _money(minor: int, currency: str) -> str:
    return str(Money(minor, currency))


def _figure(minor: int, currency: str) -> str:
    return _money(minor, currency).removesuffix(f" {currency}")


def _day(day: Any) -> str:
    return "–" if day is None else day.isoformat()


def _database() -> Database:
    return Database(settings().database_url, pool_size=1)
