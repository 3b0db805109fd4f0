"""`tenure disclose`: ask for a disclosure that a law requires, approve it, make it, look at the log (P4, T29)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.export import disclosure as disclosures
from tasks.export.disclosure import APPROVALS
from tasks.failures import Failure
from workers.settings.settings import settings
from workers.terminal.options import FILE, as_json, by_person
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors
from workers.wiring import bootstrap

disclose = click.Group("disclose", help="One person asks for it, two others approve it, and all of it is logged.")

LOG = text("""
    SELECT disclosure.id, account.ref AS account, reference, legal_basis, asked_by, asked_at,
           coalesce((SELECT jsonb_agg(jsonb_build_object('action', action, 'by', person, 'at', at, 'manifest_sha256',
                                                         encode(manifest_sha256, 'hex')) ORDER BY e.id)
                       FROM tenure.disclosure_events AS e WHERE disclosure_id = disclosure.id), '[]') AS events
      FROM tenure.disclosures AS disclosure JOIN tenure.accounts AS account ON account.id = account_id
     ORDER BY disclosure.id""")


@disclose.command()
@click.argument("account", metavar="REF")
@click.option("--reference", required=True, help="The name that a court or an authority gives to the case.")
@click.option("--legal-basis", required=True, help="The law that requires it.")
@by_person
@reports_errors
def ask(account: str, reference: str, legal_basis: str, by: str) -> None:
    """Ask for the disclosure of an account's data.

    Prints the id of the disclosure.
    """
    values = {"account": account, "reference": reference, "basis": legal_basis, "by": by}
    said = f"{{0}}\n{APPROVALS} others have to approve it: tenure disclose approve {{0}} --by NAME"
    _call("SELECT tenure.ask_disclosure(:account, :reference, :basis, :by)", values, said)


@disclose.command()
@click.argument("disclosure", type=click.UUID)
@by_person
@reports_errors
def approve(disclosure: UUID, by: str) -> None:
    """Approve a disclosure that somebody else asked for."""
    _note(disclosure, "approved", by, f"Approved by {{0}} of {APPROVALS}.")


@disclose.command()
@click.argument("disclosure", type=click.UUID)
@by_person
@reports_errors
def refuse(disclosure: UUID, by: str) -> None:
    """Refuse a disclosure: it can never be made."""
    _note(disclosure, "refused", by, "Refused.")


@disclose.command()
@click.argument("disclosure", type=click.UUID)
@click.option("--out", type=FILE, required=True, help="Write the ZIP to this file, which must not exist.")
@by_person
@reports_errors
def make(disclosure: UUID, out: Path, by: str) -> None:
    """Make the archive of a disclosure.

    Two people have to approve it first. Only you can read the file, and it is sent to nobody.
    """
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    ports = bootstrap.ports(settings(), app)
    try:
        with out.open("xb") as file:
            out.chmod(0o600)
            for piece in disclosures.disclose(ports, disclosure, by):
                file.write(piece)
    except FileExistsError:
        raise WrongUse(f"{out} is there already: choose another file.") from None
    except (Failure, OSError) as error:
        out.unlink(missing_ok=True)
        raise CommandFailed(str(error)) from error
    click.echo(f"The record is in {out}. It was sent to nobody: whoever hands it over answers for that.")


@disclose.command("list")
@as_json
@reports_errors
def list_disclosures(json: bool) -> None:
    """Print the log of all disclosures."""
    with Database(settings().database_url, pool_size=1).connection() as connection:
        rows = connection.execute(LOG).all()
    if json:
        print_json([dict(row._mapping) for row in rows])
        return
    if not rows:
        click.echo("Nothing was ever disclosed, nor asked for.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("disclosure", "account", "case", "what was done"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "disclosure")
    for row in rows:
        done = [f"asked for by {escape(row.asked_by)}, {row.asked_at:%Y-%m-%d}"]
        done += [f"{each['action']} by {escape(each['by'])}, {each['at'][:10]}" for each in row.events]
        case = f"{escape(row.reference)}: {escape(row.legal_basis)}"
        table.add_row(str(row.id), escape(row.account), case, "\n".join(done))
    Console().print(table)


def _note(disclosure: UUID, action: str, by: str, said: str) -> None:
    values = {"id": disclosure, "action": action, "by": by}
    _call("SELECT tenure.note_disclosure(:id, :action, :by)", values, said)


def _call(sql: str, values: Mapping[str, object], said: str) -> None:
    with Database(settings().database_url, pool_size=1).connection() as connection:
        click.echo(said.format(connection.execute(text(sql), values).scalar_one()))
