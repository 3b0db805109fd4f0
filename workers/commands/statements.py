"""`tenure statements`: plan the statements of closed periods, show them, render their documents again (B2, B3).

Exit codes: 0 fine, 1 something is not as it was, 2 wrong use.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from email_templates.figures.ageing import ageing_rows
from email_templates.figures.statement import StatementDocument
from email_templates.language.reader import Reader, reader
from models.base.unit_of_work import Database
from models.billing.statement import Statement
from models.customers.account import Account
from tasks.billing.statement_plan import plan
from tasks.billing.statements import RENDER, RENDER_LONG, ToRender, load
from tasks.client.documents import open_statement
from tasks.failures import Failure
from workers.commands.documents import save
from workers.settings.settings import settings
from workers.terminal.options import DAY, FILE, as_json
from workers.terminal.output import CommandFailed, WrongUse, counted, print_json, reports_errors, wrong_use

statements = click.Group("statements")


@statements.command()
@click.option("--account", "ref", metavar="REF", help="Only this account, by the application's own key.")
@click.option(
    "--period", type=DAY, metavar="YYYY-MM-DD", help="A day of the period that is meant, which must have closed."
)
@as_json
@reports_errors
def run(ref: str | None, period: datetime | None, json: bool) -> None:
    """Plan a statement for every period that has closed.

    Beat does this each minute. Workers render and send what is planned.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.wiring import bootstrap  # noqa: PLC0415 - it brings Celery, which only this command needs

    ports = bootstrap.ports(settings(), app)
    account = _account(ports.database, ref) if ref is not None else None
    if period is not None:
        _require_closed(ports.database, account, period.date())
    counts = plan(ports, account_id=account.id if account else None)
    if counts["planned"]:
        ports.wake(RENDER.task)
        ports.wake(RENDER_LONG.task)
    if json:
        print_json(counts)
    elif not counts["accounts"]:
        click.echo("Nothing was due: every period that has closed was planned before.")
    else:
        click.echo(
            f"{counted(counts['accounts'], 'period')} closed, {counted(counts['planned'], 'statement')} planned; "
            "workers render and send them."
        )


@statements.command()
@click.argument("which", metavar="ID|ACCOUNT")
@as_json
@reports_errors
def show(which: str, json: bool) -> None:
    """Show a statement, or list an account's statements.

    Give the id of a statement, for its lines and ageing, or the ref of an account.
    """
    with wrong_use(Failure):
        found = _statements(_database(), which)
        if isinstance(found, ToRender):
            document = found.document()
    if isinstance(found, ToRender):
        (_print_json if json else _print_one)(found, document)
    elif json:
        print_json([_summary(row) for row in found])
    else:
        _print_list(found)


@statements.command()
@click.argument("statement", metavar="ID", type=click.UUID)
@click.option("--out", type=FILE, required=True, help="Write the PDF to this file.")
@click.option("--sent", is_flag=True, help="Write the PDF that was sent, from the object store, instead.")
@reports_errors
def render(statement: UUID, out: Path, sent: bool) -> int:
    """Render the document of a statement again.

    Exits with 1 if it is not, byte for byte, the one that was sent.
    """
    with wrong_use(Failure, CommandFailed):
        if sent:
            _save_sent(statement, out)
            return 0
        return _render(statement, out)


def _render(statement: UUID, out: Path) -> int:
    """Returns 1 if the document is not the one that was stored."""
    from email_templates.pdf.typesetter import typesetter  # noqa: PLC0415 - Typst and its fonts

    item = _one(_database(), statement)
    body = item.pdf()
    try:
        out.write_bytes(body)
    except OSError as error:
        raise WrongUse(f"{out} cannot be written: {error.strerror}.") from error
    row = item.statement
    if row.document_sha256 is None:
        click.echo(f"{out}: {len(body):,} bytes. The workers have not made this document yet.")
        return 0
    if hashlib.sha256(body).digest() == row.document_sha256:
        click.echo(f"{out}: {len(body):,} bytes, the same as the document that was sent.")
        return 0
    click.echo(
        f"tenure: {out} is not the document that was sent. That was made by {row.typesetter}, this by {typesetter()}; "
        "`--sent` writes the one that was sent.",
        err=True,
    )
    return 1


def _save_sent(statement: UUID, out: Path) -> None:
    ref = _ref(_database(), _one(_database(), statement).statement.account_id)
    click.echo(save(partial(open_statement, account=ref, statement=statement), out))


def _database() -> Database:
    return Database(settings().database_url)


def _ref(database: Database, account_id: UUID) -> str:
    """By which the account is known now; its statements say by which it was."""
    with database.snapshot() as session:
        return session.scalars(select(Account.ref).where(Account.id == account_id)).one()


def _account(database: Database, ref: str) -> Account:
    with database.snapshot() as session:
        found = session.scalars(select(Account).where(Account.ref == ref)).one_or_none()
    if found is None:
        raise WrongUse(f"there is no account {ref!r}: name one by its ref, the application's own key.")
    if found.status != "active":
        raise WrongUse(f"the account {ref!r} is {found.status}: no period of it closes.")
    return found


def _require_closed(database: Database, account: Account | None, period: date) -> None:
    """Raises WrongUse if the period with this day has not ended."""
    if account is None:
        raise WrongUse("--period asks about one account: name it with --account.")
    with database.snapshot() as session:
        end = session.execute(
            text("SELECT tenure.period_end(:start, :day)"), {"start": account.period_start, "day": account.billing_day}
        ).scalar_one()
        closed = session.execute(
            text("SELECT statement_due_at <= now() FROM tenure.accounts WHERE id = :id"), {"id": account.id}
        ).scalar_one()
    if period >= end or (period >= account.period_start and not closed):
        raise WrongUse(
            f"the period of {period:%Y-%m-%d} has not closed: the open one of {account.ref!r} goes from "
            f"{account.period_start:%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}."
        )


def _statements(database: Database, which: str) -> ToRender | list[Statement]:
    try:
        return _one(database, UUID(which))
    except ValueError:
        pass
    with database.snapshot() as session:
        known = session.execute(select(Account.id).where(Account.ref == which)).scalar_one_or_none()
        if known is None:
            raise WrongUse(f"{which!r} is neither the id of a statement nor the ref of an account.")
        return list(
            session.scalars(
                select(Statement)
                .where(Statement.account_id == known)
                .order_by(Statement.period_start, Statement.currency)
            )
        )


def _one(database: Database, statement: UUID) -> ToRender:
    with database.snapshot() as session:
        found = _load(session, statement)
    if found is None:
        raise WrongUse(
            f"there is no statement {statement}; `tenure statements show ACCOUNT` lists those of an account."
        )
    return found


def _load(session: Session, statement: UUID) -> ToRender | None:
    return load(session, [statement]).get(statement)


def _summary(row: Statement) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "currency": row.currency,
        "period_start": row.period_start,
        "period_end": row.period_end - timedelta(days=1),
        "opening": row.opening,
        "closing": row.closing,
        "lines": row.line_count,
        "form": row.form,
    }


def _print_json(item: ToRender, document: StatementDocument) -> None:
    row = item.statement
    told = _summary(row) | {
        "document": msgspec.to_builtins(document),
        "document_key": row.document_key,
        "document_sha256": row.document_sha256 and row.document_sha256.hex(),
        "document_bytes": row.document_bytes,
        "typesetter": row.typesetter,
        "last_error": row.last_error,
    }
    print_json(told)


def _print_list(rows: list[Statement]) -> None:
    if not rows:
        click.echo("The account has no statement yet: no period of it with entries in its ledger was planned.")
        return
    who = reader("en", "UTC")
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "period", "closing", "state"):
        table.add_column(heading, justify="right" if heading == "closing" else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.id),
            who.period(row.period_start, row.period_end - timedelta(days=1)),
            who.money(row.closing, row.currency),
            row.state,
        )
    # Wide enough for anything: an amount or an id that is cut off is worse than a line that the terminal wraps.
    Console(highlight=False, markup=False, width=200).print(table)


def _print_one(item: ToRender, document: StatementDocument) -> None:
    who = reader("en", "UTC")
    console = Console(highlight=False, markup=False)
    row = item.statement
    console.print(
        f"Statement {document.number}, {who.period(document.period_start, document.period_end)}", style="bold"
    )
    console.print(f"{document.account_name}, {_state(row)}\n", soft_wrap=True)
    lines = Table(box=None, pad_edge=False)
    for heading, side in (("date", "left"), ("description", "left"), ("amount", "right"), ("balance", "right")):
        lines.add_column(heading, justify=side)  # type: ignore[arg-type]
    balance = document.opening
    lines.add_row("", "Opening balance", "", who.money(balance, document.currency), style="dim")
    for line in document.lines:
        balance += line.amount
        late = " (recorded late)" if line.late else ""
        lines.add_row(
            f"{line.date:%Y-%m-%d}",
            f"{line.description or line.kind}{late}",
            who.figure(line.amount, document.currency),
            who.figure(balance, document.currency),
        )
    lines.add_row("", "Closing balance", "", who.money(document.closing, document.currency), style="bold")
    console.print(lines)
    console.print(_ageing(document, who))


def _ageing(document: StatementDocument, who: Reader) -> Table:
    ageing = Table(
        box=None, pad_edge=False, title="\nHow long it has been due", title_justify="left", title_style="bold"
    )
    rows = ageing_rows(who, document.ageing, document.currency)
    for label, _amount in rows:
        ageing.add_column(label, justify="right")
    ageing.add_row(*(amount for _label, amount in rows))
    return ageing


def _state(row: Statement) -> str:
    if row.document_bytes is not None and row.finished_at is not None:
        return f"a PDF of {row.document_bytes:,} bytes since {row.finished_at:%Y-%m-%d %H:%M} UTC"
    return f"{row.state}{f': {row.last_error}' if row.last_error else ''}"
