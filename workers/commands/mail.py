"""`tenure mail`: list, preview and send messages; list what was not delivered; suppress addresses (E11, E13).

Exit codes: 0 fine, 1 messages were not delivered, or no browser starts, 2 wrong use.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, get_origin
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.padding import Padding
from sqlalchemy import Connection, or_, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue import MESSAGES, UnknownMessage, find, write_context
from email_templates.catalogue.message import Message
from email_templates.language.company import Company
from email_templates.language.reader import reader
from email_templates.language.translations import SOURCE, languages
from email_templates.mail.rendering import render
from models.base.unit_of_work import Database
from models.customers.account import Account, AccountStatus
from models.customers.contact import Contact
from models.mail.suppression import SuppressionReason, lift, suppress
from tasks.mail.addresses import checked
from tasks.mail.queue import Queued, queue
from workers.settings.settings import SettingsError, settings
from workers.terminal.options import FILE, as_json
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors, wrong_use
from workers.wiring.bootstrap import letterhead, ports

mail = click.Group("mail")

undelivered_limit = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Print at most this many."
)

#: Who signs a preview where no company is set.
SAMPLE_COMPANY = Company(
    name="Example Company",
    address=("1 Example Street", "Exampletown"),
    email="billing@example.com",
    website="example.com",
    bank_account=("Example Bank", "IBAN XX00 0000 0000 0000", "BIC EXAMPLEX"),
)
SAMPLE_RECIPIENT = "Luís Gonçalves"


#: What a person may send: the others say what the platform knows, and a person could only say it wrongly.
BY_HAND: Final = ("service-notice", "policy-updated")
#: After so long without a word from the provider a message that was accepted is shown (E11).
SILENCE: Final = timedelta(hours=72)
#: Older silence is no news any more.
NEWS: Final = timedelta(days=30)

UNDELIVERED = text("""
    WITH wrong AS (
        SELECT id, state, finished_at AS since, last_error AS why FROM tenure.email_messages
         WHERE state IN ('failed', 'unknown', 'suppressed')
        UNION ALL
        SELECT email_message_id, kind, max(occurred_at), concat_ws(': ', 'The provider says so', max(detail))
          FROM tenure.delivery_events WHERE kind IN ('bounced', 'rejected', 'complained') GROUP BY 1, 2
        UNION ALL
        SELECT id, 'silent', finished_at, 'It was accepted, and nothing was heard of it since.'
          FROM tenure.email_messages AS email
         WHERE state = 'done' AND finished_at BETWEEN now() - :news AND now() - :silence
           AND NOT EXISTS (SELECT FROM tenure.delivery_events WHERE email_message_id = email.id)
           -- Where no provider ever told anything, silence says nothing.
           AND EXISTS (SELECT FROM tenure.delivery_events))
    SELECT wrong.id, wrong.state, email.message, account.ref AS account, email.contact_id AS contact, wrong.since,
           wrong.why
      FROM wrong JOIN tenure.email_messages AS email USING (id)
      -- A message about a termination is no part of the account's data, and stays when those have gone.
      LEFT JOIN tenure.terminations AS termination ON termination.id = email.termination_id
      LEFT JOIN tenure.accounts AS account ON account.id = coalesce(email.account_id, termination.account_id)
     ORDER BY wrong.since DESC NULLS LAST, wrong.id LIMIT :limit""")

SUPPRESSED = text("""
    SELECT suppressed.address, suppressed.reason, suppressed.detail, suppressed.created_at AS since,
           account.ref AS account
      FROM tenure.suppressions AS suppressed LEFT JOIN tenure.accounts AS account ON account.id = suppressed.account_id
     WHERE suppressed.lifted_at IS NULL ORDER BY suppressed.created_at DESC, suppressed.address LIMIT :limit""")


@mail.command("list")
@as_json
@reports_errors
def list_messages(json: bool) -> None:
    """List every message that can be sent.

    Prints the promise behind each, and why it is not marketing.
    """
    if json:
        rows = [
            {
                "name": message.name,
                "promise": message.promise,
                "why_not_marketing": message.why_not_marketing,
                "urgent": message.urgent,
                "resend_if_unknown": message.resend_if_unknown,
                "optional": message.optional,
                "variants": list(message.examples()),
                "languages": list(languages()),
            }
            for message in MESSAGES.values()
        ]
        print_json(rows)
        return
    console = Console(highlight=False)
    for message in MESSAGES.values():
        console.print(f"[bold]{message.name}[/]  {message.promise}  {', '.join(_traits(message))}", soft_wrap=True)
        console.print(Padding(message.why_not_marketing, (0, 0, 0, 2)))
    console.print(f"\nEach is written in {', '.join(languages())}; who reads another language gets {SOURCE}.")


@mail.command()
@click.argument("name")
@click.option("--variant", default="", help="One of the message's variants; `tenure mail list --json` names them.")
@click.option("--language", default="en", show_default=True, help="A BCP 47 tag, such as de-AT.")
@click.option("--time-zone", default="UTC", show_default=True, help="An IANA name, such as Europe/Vienna.")
@click.option("--html", type=FILE, help="Write the HTML part to this file.")
@click.option("--text", is_flag=True, help="Print the text part, as without any option.")
@click.option("--open", "show", is_flag=True, help="Open the HTML part in a browser.")
@reports_errors
def preview(
    *, name: str, variant: str, language: str, time_zone: str, html: Path | None, text: bool, show: bool
) -> None:
    """Preview a message, filled with sample data."""
    if text and (html or show):
        raise click.UsageError("--text does not go with --html or --open.")
    with wrong_use(UnknownMessage, ValueError):
        message = find(name)
        context = _example(message, variant)
        rendered = render(
            context, language=language, time_zone=time_zone, company=_company(), recipient_name=SAMPLE_RECIPIENT
        )
    written = reader(language, time_zone)
    if language.partition("-")[0].lower() != written.language:
        click.echo(f"tenure: nothing is written in {language!r}, so this is {written.language}.", err=True)
    if html is None and not show:
        click.echo(f"Subject: {rendered.subject}\n\n{rendered.text}", nl=False)
        return
    try:
        if html is None:
            handle, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".html")
            os.close(handle)
            html = Path(path)
        html.write_text(rendered.html, encoding="utf-8", newline="\n")
    except OSError as error:
        raise WrongUse(f"{html} cannot be written: {error.strerror}.") from error
    click.echo(f"Subject: {rendered.subject}\n{html}")
    if show and click.launch(str(html.resolve())) != 0:
        raise CommandFailed("no browser could be started; open the file yourself.")


@mail.command()
@click.argument("name")
@click.option("--to", multiple=True, metavar="CONTACT", help="A contact, by address or id. Can be repeated.")
@click.option("--account", "accounts", multiple=True, metavar="REF", help="An account's contacts. Can be repeated.")
@click.option(
    "--set", "values", multiple=True, metavar="FIELD=VALUE", help="A field of the message; repeat it for a list."
)
@reports_errors
def send(name: str, to: Sequence[str], accounts: Sequence[str], values: Sequence[str]) -> None:
    """Send a service-notice or policy-updated by hand.

    A contact gets the same words only once.

    For example: tenure mail send service-notice --account acme --set kind=maintenance --set topic=Upgrade …
    """
    with wrong_use(UnknownMessage, ValueError):
        context = _context(name, values)
    if not to and not accounts:
        raise WrongUse("say to whom: --to CONTACT (address or id) or --account REF.")
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    connected = ports(settings(), app)
    with connected.database.transaction() as session:
        contacts: dict[UUID, Contact] = {}
        for wanted in [*(("contact", each) for each in to), *(("account", each) for each in accounts)]:
            found = _contacts(session, *wanted)
            if not found:
                raise WrongUse(f"no active account has the {wanted[0]} {wanted[1]!r}.")
            contacts |= {contact.id: contact for contact in found}
        words = sha256(msgspec.json.encode([name, write_context(context)])).hexdigest()
        before = _count(session.connection())
        queue(
            session,
            [
                Queued(each.account_id, each.id, each.email, context, f"operator:{words[:32]}:{each.id}")
                for each in contacts.values()
            ],
            connected,
        )
        new = _count(session.connection()) - before
    already = len(contacts) - new
    click.echo(f"{new} queued." + (f" {already} had the same words already, and get them once." if already else ""))


@mail.command()
@undelivered_limit
@as_json
@reports_errors
def failed(limit: int, json: bool) -> int:
    """List the messages that were not delivered.

    Messages without any delivery report are listed, too. Exits with 1 if there are any.
    """
    with _database().connection() as connection:
        rows = [
            dict(row._mapping)
            for row in connection.execute(UNDELIVERED, {"limit": limit, "silence": SILENCE, "news": NEWS})
        ]
    if json:
        print_json(rows)
        return int(bool(rows))
    for row in rows:
        click.echo(f"{row['id']}  {row['message']}, {row['state']}, account {row['account']}, {_day(row['since'])}")
        click.echo(f"  {row['why']}")
    if not rows:
        click.echo("Every message that was sent arrived, as far as anybody told.")
    return int(bool(rows))


@mail.command()
@click.option("--add", metavar="ADDRESS", help="Suppress this address.")
@click.option("--lift", "lifted", metavar="ADDRESS", help="Lift the suppression of this address.")
@click.option("--why", help="The reason, which is kept.")
@undelivered_limit
@as_json
@reports_errors
def suppressions(*, add: str | None, lifted: str | None, why: str | None, limit: int, json: bool) -> None:
    """List, add or lift suppressed addresses.

    No mail is sent to a suppressed address.
    """
    if add and lifted:
        raise click.UsageError("--add does not go with --lift.")
    if (add or lifted) and not why:
        raise WrongUse("say why, with --why: it is kept.")
    if add:
        with wrong_use(ValueError):
            checked(add)
    with _database().connection() as connection:
        if add:
            new = suppress(connection, add, SuppressionReason.OPERATOR, detail=why)
            click.echo("It is not written to any more." if new else "It was suppressed already.")
            return
        if lifted:
            if not lift(connection, lifted, str(why)):
                raise WrongUse("that address is not suppressed.")
            click.echo("It is written to again. What was not sent meanwhile: tenure mail failed, tenure work retry.")
            return
        rows = [dict(row._mapping) for row in connection.execute(SUPPRESSED, {"limit": limit})]
    if json:
        print_json(rows)
        return
    for row in rows:
        said = f"{row['reason']}{': ' + row['detail'] if row['detail'] else ''}"
        click.echo(f"{row['address']}  account {row['account'] or '–'}, {_day(row['since'])}, {said}")
    if not rows:
        click.echo("No address is suppressed.")


def _traits(message: type[Message]) -> list[str]:
    """What is peculiar to sending it."""
    traits = ["urgent" if message.urgent else "in turn"]
    if message.resend_if_unknown:
        traits.append("rather twice than never")
    if message.optional:
        traits.append("can be declined")
    return traits


def _example(message: type[Message], variant: str) -> Message:
    examples = message.examples()
    if variant not in examples:
        known = ", ".join(repr(each) for each in examples if each) or "none but the first"
        raise ValueError(f"The message {message.name!r} has no variant {variant!r}; it has {known}.")
    return examples[variant]


def _company() -> Company:
    """The company of this installation where it is set up, and an invented one where it is not."""
    try:
        return letterhead(settings()).company
    except SettingsError:
        return SAMPLE_COMPANY


def _context(name: str, values: Sequence[str]) -> Message:
    """The typed context of what was written as FIELD=VALUE; ValueError says what is wrong, quoting no value."""
    message = find(name)
    if name not in BY_HAND:
        raise ValueError(f"{name!r} is sent by the platform alone; by hand one can send {', '.join(BY_HAND)}.")
    fields = {field.name: get_origin(field.type) is tuple for field in msgspec.structs.fields(message)}
    given: dict[str, Any] = {}
    for each in values:
        field, equals, value = each.partition("=")
        if not equals or field not in fields:
            raise ValueError(f"{field!r} is no field of {name}: write FIELD=VALUE with {', '.join(fields)}.")
        if fields[field]:
            given.setdefault(field, []).append(value)
        else:
            given[field] = value
    try:
        return msgspec.convert(given, message, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name} cannot be made of that: {error}. Give each with --set FIELD=VALUE.") from None


def _contacts(session: Session, kind: str, wanted: str) -> Sequence[Contact]:
    if kind == "account":
        which = Account.ref == wanted
    else:
        try:
            which = or_(Contact.email == wanted, Contact.id == UUID(wanted))
        except ValueError:
            which = Contact.email == wanted
    return session.scalars(
        select(Contact)
        .join(Account, Account.id == Contact.account_id)
        .where(which, Account.status == AccountStatus.ACTIVE)
    ).all()


def _count(connection: Connection) -> int:
    return int(
        connection.execute(
            text("SELECT count(*) FROM tenure.email_messages WHERE starts_with(dedupe_key, 'operator:')")
        ).scalar_one()
    )


def _day(when: Any) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC" if when else "–"


def _database() -> Database:
    return Database(settings().database_url, pool_size=1)
