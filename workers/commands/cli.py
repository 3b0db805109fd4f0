"""The `tenure` command. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

as_json = click.option("--json", is_flag=True, help="As JSON, for programs.")


by_person = click.option("--by", metavar="NAME", help="Who does it; without it, the one who is logged in.")


@click.group()
def security() -> None:
    pass


@security.command("audit")
def security_audit() -> None:
    """Look up every installed package now. Exits 1 where something is open."""
    from workers.commands import security as security_commands

    sys.exit(security_commands.audit())


@security.command("findings")
@as_json
def security_findings(json: bool) -> None:
    """What is open, for how long, and the versions without it. Exits 1 where anything is."""
    from workers.commands import security as security_commands

    sys.exit(security_commands.findings(json))


@security.command("accept")
@click.argument("package")
@click.argument("advisory")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The day on which to look again.")
@click.option("--why", required=True, help="Why it does no harm here.")
def security_accept(package: str, advisory: str, until: datetime, why: str) -> None:
    """Record that a finding does no harm here."""
    from workers.commands import security as security_commands

    sys.exit(security_commands.accept(package, advisory, until.date(), why))


@click.group()
def sessions() -> None:
    pass


@sessions.command("stats")
@as_json
def sessions_stats(json: bool) -> None:
    """Sessions in each store, the oldest, and what was swept. Exits 1 where any is older than it may be."""
    from workers.commands import sessions as session_commands

    sys.exit(session_commands.stats(json))


@sessions.command("sweep")
@as_json
def sessions_sweep(json: bool) -> None:
    """Sweep every store now, to the end. Exits 1 where one could not be."""
    from workers.commands import sessions as session_commands

    sys.exit(session_commands.sweep(json))


map_file = click.option(
    "--map",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The company's map; else the one that TENURE_DATAMAP names, else datamap.toml in this folder.",
)


@click.group()
def datamap() -> None:
    pass


@datamap.command("discover")
@click.option("--customers", required=True, metavar="SCHEMA.TABLE", help="The table of your customers.")
@click.option("--ref", metavar="COLUMN", help="Its column with the key that is ref in Tenure; else its primary key.")
@click.option("--database", default="main", show_default=True, help="Another database, by its name in the map.")
@map_file
def datamap_discover(customers: str, ref: str | None, database: str, file: Path | None) -> None:
    """Follow the foreign keys from your customers, and print entries for datamap.toml."""
    from workers.commands import datamap as datamap_commands

    sys.exit(datamap_commands.discover(customers, ref, database, file))


@datamap.command("check")
@map_file
@as_json
def datamap_check(file: Path | None, json: bool) -> None:
    """Compare the map with the live databases. Exits 1 where they disagree, or an index is missing."""
    from workers.commands import datamap as datamap_commands

    sys.exit(datamap_commands.check(file, json))


@datamap.command("fence")
@click.option("--apply", is_flag=True, help="Put the triggers up, all or none, instead of printing them.")
@map_file
def datamap_fence(apply: bool, file: Path | None) -> None:
    """Triggers by which your own tables refuse what is written for a customer whose contract has ended."""
    from workers.commands import datamap as datamap_commands

    sys.exit(datamap_commands.fence(file, apply))


@click.group()
def invoices() -> None:
    pass


@invoices.command("issue")
@click.option("--account", metavar="REF", help="All that this account was charged until now and is on no invoice yet.")
@click.option("--all-due", is_flag=True, help="Every period that has closed, of all accounts.")
@as_json
def invoices_issue(account: str | None, all_due: bool, json: bool) -> None:
    """Issue invoices now. What is on one already is never invoiced twice."""
    from workers.commands import invoices as invoice_commands

    sys.exit(invoice_commands.issue(account, all_due, json))


@invoices.command("show")
@click.argument("number")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the PDF to this file, as it was sent, instead.",
)
@as_json
def invoices_show(number: str, out: Path | None, json: bool) -> None:
    """An invoice or credit note: its lines, what settled it, what is open."""
    from workers.commands import invoices as invoice_commands

    sys.exit(invoice_commands.show(number, json) if out is None else invoice_commands.sent(number, out))


@invoices.command("credit")
@click.argument("number")
@click.option("--amount", help="So much, tax included, such as 12.50.")
@click.option("--lines", metavar="1,3", help="Of these lines: all that is left of them, or the amount.")
@click.option("--all", "whole", is_flag=True, help="All that is left: the invoice is void.")
@click.option("--reason", help="Stands on the credit note and in its mail.")
@as_json
def invoices_credit(
    *, number: str, amount: str | None, lines: str | None, whole: bool, reason: str | None, json: bool
) -> None:
    """Correct an invoice, which itself never changes, by a credit note."""
    from workers.commands import invoices as invoice_commands

    sys.exit(invoice_commands.credit_invoice(number, amount=amount, lines=lines, whole=whole, reason=reason, json=json))


@click.group()
def mail() -> None:
    pass


@mail.command("list")
@as_json
def mail_list(json: bool) -> None:
    """The closed catalogue: each message, its promise, and why it is not marketing."""
    from workers.commands import mail as mail_commands

    sys.exit(mail_commands.list_messages(json))


@mail.command("preview")
@click.argument("name")
@click.option(
    "--variant", default="", help="Another of its believable contexts, as `tenure mail list --json` names them."
)
@click.option("--language", default="en", show_default=True, help="A BCP 47 tag, such as de-AT.")
@click.option("--time-zone", default="UTC", show_default=True, help="An IANA name, such as Europe/Vienna.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@click.option("--text", is_flag=True, help="Print the text part; this is what happens without an option.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def mail_preview(
    *, name: str, variant: str, language: str, time_zone: str, html: Path | None, text: bool, show: bool
) -> None:
    """A message as it will look, filled with a believable context."""
    from workers.commands import mail as mail_commands

    if text and (html or show):
        raise click.UsageError("--text does not go with --html or --open.")
    sys.exit(mail_commands.preview(name, variant, language=language, time_zone=time_zone, html=html, show=show))


@click.group()
def statements() -> None:
    pass


@statements.command("run")
@click.option("--account", metavar="REF", help="Only this account, by the application's own key.")
@click.option(
    "--period",
    type=click.DateTime(["%Y-%m-%d"]),
    help="A day of the period that is meant; refused where that has not closed.",
)
@as_json
def statements_run(account: str | None, period: datetime | None, json: bool) -> None:
    """Plan every period that has closed, as the clock does each minute. Workers render and send what is planned."""
    from workers.commands import statements as statement_commands

    sys.exit(statement_commands.run(account, period.date() if period else None, json))


@statements.command("show")
@click.argument("which", metavar="ID|ACCOUNT")
@as_json
def statements_show(which: str, json: bool) -> None:
    """A statement with its lines and ageing; or, of an account's ref, the list of its statements."""
    from workers.commands import statements as statement_commands

    sys.exit(statement_commands.show(which, json))


@statements.command("render")
@click.argument("statement", metavar="ID", type=click.UUID)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Write the PDF to this file."
)
@click.option(
    "--sent", is_flag=True, help="The one that was sent, opened from the object store, instead of made again."
)
def statements_render(statement: UUID, out: Path, sent: bool) -> None:
    """Make the document again. Exits 1 where it is not the one that was sent, byte for byte."""
    from workers.commands import statements as statement_commands

    sys.exit((statement_commands.sent if sent else statement_commands.render)(statement, out))


@mail.command("send")
@click.argument("name")
@click.option("--to", multiple=True, metavar="CONTACT", help="A contact, by address or id; may be given again.")
@click.option("--account", "accounts", multiple=True, metavar="REF", help="All contacts of this account; likewise.")
@click.option("--set", "values", multiple=True, metavar="FIELD=VALUE", help="What it says; a list is given again.")
def mail_send(name: str, to: tuple[str, ...], accounts: tuple[str, ...], values: tuple[str, ...]) -> None:
    """Send a notice of the catalogue by hand, once for the same words: tenure mail send service-notice --to …"""
    from workers.commands import mail_desk

    sys.exit(mail_desk.send(name, to, accounts, values))


@mail.command("failed")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="How many at the most.")
@as_json
def mail_failed(limit: int, json: bool) -> None:
    """What did not arrive, or of which nobody can tell, with the reason. Exits 1 where there is any."""
    from workers.commands import mail_desk

    sys.exit(mail_desk.failed(limit, json))


@mail.command("suppressions")
@click.option("--add", metavar="ADDRESS", help="Write to this address no more.")
@click.option("--lift", "lifted", metavar="ADDRESS", help="Write to this address again.")
@click.option("--why", help="The reason, which is kept.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="How many at the most.")
@as_json
def mail_suppressions(*, add: str | None, lifted: str | None, why: str | None, limit: int, json: bool) -> None:
    """The addresses that are not written to, and why; add one, or lift one."""
    from workers.commands import mail_desk

    if add and lifted:
        raise click.UsageError("--add does not go with --lift.")
    sys.exit(mail_desk.suppressions(add, lifted, why, limit=limit, json=json))
