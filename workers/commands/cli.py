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
def certificate() -> None:
    pass


@certificate.command("list")
@as_json
def certificate_list(json: bool) -> None:
    """All certificates, the oldest first."""
    from workers.commands import certificate as certificate_commands

    sys.exit(certificate_commands.list_certificates(json))


@certificate.command("show")
@click.argument("which", metavar="NUMBER|TERMINATION")
@as_json
def certificate_show(which: str, json: bool) -> None:
    """One certificate, by its number (19 or PC-2026-00019), or all of a termination, by its id."""
    from workers.commands import certificate as certificate_commands

    sys.exit(certificate_commands.show(which, json))


@certificate.command("export")
@click.argument("which", metavar="[NUMBER|TERMINATION]", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def certificate_export(which: str | None, out: Path | None) -> None:
    """The whole chain as a file that can be checked anywhere; or one certificate with the keys that it takes."""
    from workers.commands import certificate as certificate_commands

    sys.exit(certificate_commands.export(which, out))


@certificate.command("verify")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A public key that you trust, or its file.")
@click.option("--head", metavar="NUMBER:SHA256", help="A certificate that you know of, such as the latest.")
def certificate_verify(file: Path | None, keys: tuple[str, ...], head: str | None) -> None:
    """Check a file, which needs no server; without one, this installation's chain. Exits 1 where something is wrong."""
    from workers.commands import certificate as certificate_commands

    sys.exit(certificate_commands.verify(file, keys, head))


@certificate.command("key")
def certificate_key() -> None:
    """The public key by which certificates are checked. Publish it."""
    from workers.commands import certificate as certificate_commands

    sys.exit(certificate_commands.key())


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
def work() -> None:
    pass


@work.command("list")
@click.option("--state", help="Only rows in this state: pending, running, failed, unknown, cancelled or done.")
@click.option("--table", help="Only this table: statements, email_messages or job_requests.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many rows at the most."
)
@as_json
def work_list(state: str | None, table: str | None, limit: int, json: bool) -> None:
    """How each table stands, and the rows that want a person. Exits 1 where there are any."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.list_work(state, table, limit, json))


@work.command("show")
@click.argument("row", type=click.UUID)
@as_json
def work_show(row: UUID, json: bool) -> None:
    """One row, whole: state, attempts, who holds it, and why it failed."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.show(row, json))


@work.command("retry")
@click.argument("rows", type=click.UUID, nargs=-1)
@click.option("--failed", "table", metavar="TABLE", help="All failed rows of this table.")
def work_retry(rows: tuple[UUID, ...], table: str | None) -> None:
    """Make failed, cancelled or unknown rows due again."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.retry(rows, table))


@work.command("cancel")
@click.argument("rows", type=click.UUID, nargs=-1, required=True)
@click.option("--why", default="Cancelled by an operator.", help="Kept with the row.")
def work_cancel(rows: tuple[UUID, ...], why: str) -> None:
    """Take waiting or failed rows out of the work for good."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.cancel(rows, why))


@work.command("quarantine")
@click.option("--replay", type=click.UUID, help="Try this message again, now that its reason may be mended.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many at the most.")
@as_json
def work_quarantine(replay: UUID | None, limit: int, json: bool) -> None:
    """The messages that could not be accepted, with their reasons. Exits 1 where there are any."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.quarantine(replay, limit, json))


@work.command("pause")
@click.argument("task")
def work_pause(task: str) -> None:
    """Stop claiming the rows of a job, such as emails.send, on all workers. What is running goes on."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.pause(task, True))


@work.command("resume")
@click.argument("task")
def work_resume(task: str) -> None:
    """Go on with a paused job."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.pause(task, False))


@work.command("limit")
@click.argument("task")
@click.option("--concurrency", type=click.IntRange(0), help="Rows running at the same time, over all workers.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Rows a second, over all workers.")
def work_limit(task: str, concurrency: int | None, rate: float | None) -> None:
    """Limit a job over all workers; without options, lift its limits."""
    from workers.commands import work as work_commands

    sys.exit(work_commands.limit(task, concurrency, rate))


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


@click.group()
def payments() -> None:
    pass


@payments.command("show")
@click.argument("about", metavar="INVOICE|ACCOUNT")
@as_json
def payments_show(about: str, json: bool) -> None:
    """The attempts to collect an invoice, by its number, or all of an account, by its ref."""
    from workers.commands import payments as payment_commands

    sys.exit(payment_commands.show(about, json))


@payments.command("reconcile")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="A day, in UTC; without it, from yesterday until now.")
@as_json
def payments_reconcile(day: datetime | None, json: bool) -> None:
    """Compare provider and ledger now, and record what the ledger lacks. Exits 1 where they differ after that."""
    from workers.commands import payments as payment_commands

    sys.exit(payment_commands.reconcile(day.date() if day else None, json))


@click.group()
def reminders() -> None:
    pass


@reminders.command("explain")
@click.argument("invoice")
@as_json
def reminders_explain(invoice: str, json: bool) -> None:
    """The next reminder of an invoice: which step, when, and why then; or why none. And those that it had."""
    from workers.commands import reminders as reminder_commands

    sys.exit(reminder_commands.explain(invoice, json))


@reminders.command("simulate")
@click.argument("days", type=click.IntRange(1, 1_000))
@click.option("--account", metavar="REF", help="Of this account alone.")
@as_json
def reminders_simulate(days: int, account: str | None, json: bool) -> None:
    """The letters of the next DAYS, if nobody pays and nothing else happens. Sends nothing."""
    from workers.commands import reminders as reminder_commands

    sys.exit(reminder_commands.run_simulation(days, account, json))


@reminders.command("pause")
@click.argument("about", metavar="INVOICE|ACCOUNT")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day of it; without it, until it is over.")
@click.option("--over", is_flag=True, help="End the pause.")
def reminders_pause(about: str, until: datetime | None, over: bool) -> None:
    """Send no reminders of an invoice, or of a whole account, for a while."""
    from workers.commands import reminders as reminder_commands

    sys.exit(reminder_commands.pause(about, until.date() if until else None, over))
