"""`tenure reminders`: when the next one leaves and why, what the coming days will bring, and pauses by hand (B19).

Exit codes: 0 fine, 1 nothing to show, 2 wrong use.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from models.base.money import Money
from models.base.unit_of_work import Database
from tasks.failures import Failure
from tasks.reminders import book
from tasks.reminders.forecast import Foreseen, find, simulate
from tasks.reminders.holds import end_early, set_pause
from tasks.reminders.ladder import Customer, Next
from tasks.reminders.ladder import explain as next_step
from workers.settings.settings import settings
from workers.terminal.options import DAY, as_json
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors, wrong_use

reminders = click.Group("reminders")

#: Letters of a simulation that are listed one by one; more are counted by day.
LISTED = 40

INVOICE = text("""
    SELECT invoice.number, balance.open, balance.currency, account.ref, account.status
      FROM tenure.invoices AS invoice JOIN tenure.accounts AS account ON account.id = invoice.account_id
      LEFT JOIN tenure.invoice_balances AS balance ON balance.invoice_id = invoice.id WHERE invoice.number = :number""")

HISTORY = text("""
    SELECT letter.local_day, reminder.step, reminder.level, reminder.fee,
           reminder.withdrawn_at IS NOT NULL AS withdrawn,
           array_agg(DISTINCT email.state ORDER BY email.state) AS copies,
           max(email.last_error) FILTER (WHERE email.state <> 'done') AS why
      FROM tenure.reminders AS reminder
      JOIN tenure.reminder_letters AS letter ON letter.id = reminder.letter_id
      JOIN tenure.invoices AS invoice ON invoice.id = reminder.invoice_id
      LEFT JOIN tenure.reminder_copies AS copy ON copy.letter_id = letter.id
      LEFT JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
     WHERE invoice.number = :number GROUP BY reminder.id, letter.id ORDER BY letter.id""")

ABOUT = text("""
    SELECT account.id, invoice.number
      FROM tenure.accounts AS account
      LEFT JOIN tenure.invoices AS invoice
        ON invoice.account_id = account.id AND invoice.number = :about AND invoice.kind = 'invoice'
     WHERE account.ref = :about OR invoice.number = :about""")


@reminders.command()
@click.argument("invoice", metavar="INVOICE")
@as_json
@reports_errors
def explain(invoice: str, json: bool) -> None:
    """Explain which reminder of an invoice comes next.

    Prints when it is sent and why then, or why none is, and the reminders that were sent.
    """
    with Database(settings().database_url, pool_size=1).transaction() as session:
        row = session.execute(INVOICE, {"number": invoice}).one_or_none()
        if row is None:
            raise CommandFailed(f"there is no invoice {invoice!r}.")
        now = book.clock(session)
        found = find(session, invoice, now)
        following = next_step(*found, now) if found else Next(None, None, None, (_gone(row),))
        history = [dict(each._mapping) for each in session.execute(HISTORY, {"number": invoice})]
    shown = _shown(row, found[0] if found else None, following, history)
    if json:
        print_json(shown)
    else:
        _print(shown)


def _gone(invoice: Any) -> str:
    if invoice.open is None:
        return "It is no invoice: a credit note is never reminded of."
    if invoice.open == 0:
        return "It is settled."
    return f"Its account is {invoice.status}, or lives in a time zone that nobody knows: it is not reminded."


def _shown(invoice: Any, customer: Customer | None, following: Next, history: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "invoice": invoice.number,
        "account": invoice.ref,
        "open": invoice.open,
        "currency": invoice.currency,
        "next_at": following.at.astimezone(customer.zone) if following.at and customer else None,
        "time_zone": customer.zone.key if customer else None,
        "step": following.step.number if following.step else None,
        "level": following.letter.level if following.letter else None,
        "message": following.letter.kind if following.letter else None,
        "together_with": [
            item.debt.number for item in following.letter.items if item.debt.number != invoice.number
        ] if following.letter else [],
        "reasons": list(following.reasons),
        "history": history,
    }  # fmt: skip


def _print(shown: dict[str, Any]) -> None:
    console = Console(highlight=False)
    owed = str(Money(shown["open"], shown["currency"])) if shown["open"] else "nothing"
    console.print(f"[bold]{shown['invoice']}[/] of {shown['account']}: {owed} open")
    at: datetime | None = shown["next_at"]
    if at is None:
        console.print("No reminder will leave.")
    else:
        what = "the letter about the broken promise" if shown["step"] is None else f"step {shown['step']}"
        words = f", in the words of the reminder “{shown['level']}”" if shown["level"] else ""
        console.print(f"Next: {what}{words}, {at:%A, %Y-%m-%d, %H:%M} in {shown['time_zone']}")
        if shown["together_with"]:
            console.print(f"  together with {', '.join(shown['together_with'])}")
    for reason in shown["reasons"]:
        console.print(f"  – {reason}", soft_wrap=True)
    if not shown["history"]:
        return
    table = Table("day", "step", "words", "copies", "", box=None, pad_edge=False)
    for row in shown["history"]:
        copies = "withdrawn" if row["withdrawn"] else ", ".join(each for each in row["copies"] if each)
        table.add_row(str(row["local_day"]), str(row["step"]), row["level"], copies, row["why"] or "")
    console.print()
    console.print(table)


@reminders.command("simulate")
@click.argument("days", type=click.IntRange(1, 1_000))
@click.option("--account", metavar="REF", help="Only letters to this account.")
@as_json
@reports_errors
def forecast(days: int, account: str | None, json: bool) -> None:
    """List the reminders of the next DAYS days.

    Assumes that nobody pays and nothing else changes. Sends nothing.
    """
    with Database(settings().database_url, pool_size=1).snapshot() as session:
        now = book.clock(session)
        foreseen = sorted(simulate(session, now, days, ref=account), key=lambda each: (each.at, each.account))
    if json:
        print_json(
            [{"at": each.at, "account": each.account, "message": each.message, **each.context} for each in foreseen]
        )
        return
    if not foreseen:
        click.echo("Nobody will be reminded.")
        return
    table = Table(box=None, pad_edge=False)
    if len(foreseen) <= LISTED:
        _list(table, foreseen)
    else:
        _count(table, foreseen)
    Console(highlight=False).print(table)
    many = "1 letter" if len(foreseen) == 1 else f"{len(foreseen):,} letters"
    click.echo(f"{many} in {days} days, if nobody pays and nothing else happens.")


def _list(table: Table, foreseen: list[Foreseen]) -> None:
    for heading in ("at (UTC)", "account", "letter", "invoices"):
        table.add_column(heading)
    table.add_column("total", justify="right")
    for each in foreseen:
        said = each.context
        total = said.get("total", sum(invoice["still_open"] for invoice in said["invoices"]))
        table.add_row(
            f"{each.at:%Y-%m-%d %H:%M}",
            each.account,
            said.get("level", "promise broken"),
            str(len(said["invoices"])),
            str(Money(total, said["currency"])),
        )


def _count(table: Table, foreseen: list[Foreseen]) -> None:
    kinds = ("upcoming", "first", "second", "final", "promise broken")
    table.add_column("day (UTC)")
    for kind in kinds:
        table.add_column(kind, justify="right")
    days: dict[date, Counter[str]] = {}
    for each in foreseen:
        days.setdefault(each.at.date(), Counter())[each.context.get("level", "promise broken")] += 1
    for day, counted in days.items():
        table.add_row(str(day), *(str(counted[kind] or "") for kind in kinds))


@reminders.command()
@click.argument("about", metavar="INVOICE|ACCOUNT")
@click.option("--until", type=DAY, metavar="YYYY-MM-DD", help="The last day of the pause; without it, until --over.")
@click.option("--over", is_flag=True, help="End the pause.")
@reports_errors
def pause(about: str, until: datetime | None, over: bool) -> None:
    """Pause the reminders of an invoice or of an account.

    Give the number of an invoice or the ref of an account.
    """
    last_day = until.date() if until else None
    with wrong_use(Failure), Database(settings().database_url, pool_size=1).transaction() as session:
        found = session.execute(ABOUT, {"about": about}).first()
        if found is None:
            raise WrongUse("there is no invoice of that number and no account of that ref.")
        if over:
            end_early(session, found.id, found.number, only="pause")
        else:
            set_pause(session, found.id, found.number, last_day)
    what = f"invoice {found.number}" if found.number else f"account {about}"
    ends = "until further notice" if last_day is None else f"up to and with {last_day}"
    click.echo(f"The reminders of {what} go on." if over else f"The reminders of {what} are paused {ends}.")
