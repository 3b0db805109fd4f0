"""`tenure mail send`, `failed` and `suppressions`: an operator's part in what is sent, and in what was not (E11, E13).

Exit codes: 0 fine, 1 something wants a person, 2 wrong use.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final, get_origin
from uuid import UUID

import click
import msgspec
from sqlalchemy import Connection, or_, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue import UnknownMessage, find, write_context
from email_templates.catalogue.message import Message
from models.base.unit_of_work import Database
from models.customers.account import Account, AccountStatus
from models.customers.contact import Contact
from models.mail.suppression import SuppressionReason, lift, suppress
from tasks.mail.addresses import checked
from tasks.mail.send import Queued, queue
from workers.settings.settings import settings
from workers.terminal.output import in_words, print_json
from workers.wiring import bootstrap

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


def send(name: str, to: Sequence[str], accounts: Sequence[str], values: Sequence[str]) -> int:
    """Queue a message of the catalogue to contacts, once for the same words, and say how many."""
    try:
        context = _context(name, values)
    except (UnknownMessage, ValueError) as error:
        click.echo(f"tenure: {error}", err=True)
        return 2
    if not to and not accounts:
        click.echo("tenure: say to whom: --to CONTACT (address or id) or --account REF.", err=True)
        return 2
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    with in_words():
        ports = bootstrap.ports(settings(), app)
        with ports.database.transaction() as session:
            contacts: dict[UUID, Contact] = {}
            for wanted in [*(("contact", each) for each in to), *(("account", each) for each in accounts)]:
                found = _contacts(session, *wanted)
                if not found:
                    click.echo(f"tenure: no active account has the {wanted[0]} {wanted[1]!r}.", err=True)
                    return 2
                contacts |= {contact.id: contact for contact in found}
            words = sha256(msgspec.json.encode([name, write_context(context)])).hexdigest()
            before = _count(session.connection())
            queue(
                session,
                [
                    Queued(each.account_id, each.id, each.email, context, f"operator:{words[:32]}:{each.id}")
                    for each in contacts.values()
                ],
                ports,
            )
            new = _count(session.connection()) - before
    already = len(contacts) - new
    click.echo(f"{new} queued." + (f" {already} had the same words already, and get them once." if already else ""))
    return 0


def failed(limit: int, json: bool) -> int:
    """What did not arrive, or of which nobody can tell, with the reason."""
    with in_words(), _database().connection() as connection:
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


def suppressions(add: str | None, lifted: str | None, why: str | None, *, limit: int, json: bool) -> int:
    """List the addresses that are not written to; add one or lift one, with the reason."""
    try:
        if (add or lifted) and not why:
            raise ValueError("say why, with --why: it is kept.")
        if add:
            checked(add)
    except ValueError as error:
        click.echo(f"tenure: {error}", err=True)
        return 2
    with in_words(), _database().connection() as connection:
        if add:
            new = suppress(connection, add, SuppressionReason.OPERATOR, detail=why)
            click.echo("It is not written to any more." if new else "It was suppressed already.")
            return 0
        if lifted:
            if lift(connection, lifted, str(why)):
                click.echo(
                    "It is written to again. What was not sent meanwhile: tenure mail failed, tenure work retry."
                )
                return 0
            click.echo("tenure: that address is not suppressed.", err=True)
            return 2
        rows = [dict(row._mapping) for row in connection.execute(SUPPRESSED, {"limit": limit})]
    if json:
        print_json(rows)
        return 0
    for row in rows:
        said = f"{row['reason']}{': ' + row['detail'] if row['detail'] else ''}"
        click.echo(f"{row['address']}  account {row['account'] or '–'}, {_day(row['since'])}, {said}")
    if not rows:
        click.echo("No address is suppressed.")
    return 0


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
