"""`tenure disclose`: ask for a disclosure that a law requires, approve it, make it, look at the log (P4, T29)."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, refusal
from tasks.export.disclosure import APPROVALS, disclose
from tasks.failures import Failure
from workers.app import app
from workers.settings.settings import settings
from workers.terminal.output import in_words, print_json
from workers.wiring import bootstrap

LOG = text("""
    SELECT disclosure.id, account.ref AS account, reference, legal_basis, asked_by, asked_at,
           coalesce((SELECT jsonb_agg(jsonb_build_object('action', action, 'by', person, 'at', at, 'manifest_sha256',
                                                         encode(manifest_sha256, 'hex')) ORDER BY e.id)
                       FROM tenure.disclosure_events AS e WHERE disclosure_id = disclosure.id), '[]') AS events
      FROM tenure.disclosures AS disclosure JOIN tenure.accounts AS account ON account.id = account_id
     ORDER BY disclosure.id""")


def ask(account: str, reference: str, legal_basis: str, by: str | None) -> int:
    """Prints the disclosure's id. 2 where it is refused."""
    values = {"account": account, "reference": reference, "basis": legal_basis, "by": by or getpass.getuser()}
    said = f"{{0}}\n{APPROVALS} others have to approve it: tenure disclose approve {{0}} --by NAME"
    return _noted("SELECT tenure.ask_disclosure(:account, :reference, :basis, :by)", values, said)


def note(disclosure: UUID, action: str, by: str | None) -> int:
    """Approve or refuse. 2 where that is refused itself."""
    values = {"id": disclosure, "action": action, "by": by or getpass.getuser()}
    said = f"Approved by {{0}} of {APPROVALS}." if action == "approved" else "Refused."
    return _noted("SELECT tenure.note_disclosure(:id, :action, :by)", values, said)


def make(disclosure: UUID, out: Path, by: str | None) -> int:
    """Write the record to a file that nobody else can read. 1 where it cannot be made."""
    with in_words():
        ports = bootstrap.ports(settings(), app)
        try:
            with out.open("xb") as file:
                out.chmod(0o600)
                for piece in disclose(ports, disclosure, by or getpass.getuser()):
                    file.write(piece)
        except FileExistsError:
            click.echo(f"tenure: {out} is there already: choose another file.", err=True)
            return 2
        except (Failure, OSError) as error:
            out.unlink(missing_ok=True)
            click.echo(f"tenure: {error}", err=True)
            return 1
    click.echo(f"The record is in {out}. It was sent to nobody: whoever hands it over answers for that.")
    return 0


def list_disclosures(json: bool) -> int:
    """The log."""
    with in_words(), Database(settings().database_url, pool_size=1).connection() as connection:
        rows = connection.execute(LOG).all()
    if json:
        print_json([dict(row._mapping) for row in rows])
        return 0
    if not rows:
        click.echo("Nothing was ever disclosed, nor asked for.")
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("disclosure", "account", "case", "what was done"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "disclosure")
    for row in rows:
        done = [f"asked for by {escape(row.asked_by)}, {row.asked_at:%Y-%m-%d}"]
        done += [f"{each['action']} by {escape(each['by'])}, {each['at'][:10]}" for each in row.events]
        case = f"{escape(row.reference)}: {escape(row.legal_basis)}"
        table.add_row(str(row.id), escape(row.account), case, "\n".join(done))
    Console().print(table)
    return 0


def _noted(sql: str, values: Mapping[str, object], said: str) -> int:
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
