"""Evidence about mail for `tenure policy`: messages are rendered as this installation sends them, and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from sqlalchemy import TextClause, text

from email_templates.catalogue import MESSAGES
from email_templates.language.company import Company
from email_templates.language.reader import reader
from email_templates.language.translations import SOURCE, languages
from email_templates.mail.lint import findings
from email_templates.mail.markup import NotWellFormed
from email_templates.mail.rendering import render
from workers.observe.promises.evidence import Evidence, Installation, Verdict, how_many, judged, unfinished
from workers.wiring.bootstrap import letterhead

#: How long a check that is due, or the confirmation of a change, may wait.
CHECK_GRACE = timedelta(hours=3)
#: A name that is an address, which anybody may give themselves.
STRANGER = "third-party.example"


@dataclass(frozen=True, slots=True)
class Looks:
    """What was seen of messages that greet somebody whose name is an address."""

    rendered: int
    findings: tuple[str, ...]
    #: Messages that make the address a link, or do not say whose it is.
    mistaken: tuple[str, ...]


def messages_load_nothing(installation: Installation) -> Evidence:
    """P1.2: no rendered message loads anything or links anywhere but to the company's own site."""
    company = letterhead(installation.settings).company
    looks = _looks(company)
    if looks.findings:
        return Evidence(Verdict.BROKEN, looks.findings[0])
    return Evidence(
        Verdict.KEPT, f"{looks.rendered} messages rendered: nothing remote, no link but to {company.website}"
    )


def foreign_links_are_text(installation: Installation) -> Evidence:
    """P7: an address that somebody wrote is text in every message, and the message says that it is not ours."""
    looks = _looks(letterhead(installation.settings).company)
    if looks.mistaken:
        return Evidence(Verdict.BROKEN, f"A foreign address is a link, or not named, in {', '.join(looks.mistaken)}")
    return Evidence(Verdict.KEPT, f"{looks.rendered} messages rendered with a foreign address: text in each, and named")


def messages_follow_their_reader(installation: Installation) -> Evidence:
    """P3.1a-c: every time zone of a contact exists; how many of the contacts' languages are written."""
    chosen = installation.connection.scalars(_distinct("language")).all()
    zones = installation.connection.scalars(_distinct("time_zone")).all()
    lost = sum(not _exists(zone) for zone in zones)
    own = [reader(each, "UTC").language for each in chosen]
    written = sum(made != SOURCE or each.lower().startswith(SOURCE) for each, made in zip(chosen, own, strict=True))
    contacts = how_many(installation.connection, "tenure.contacts")
    return judged(
        lost == 0,
        f"{contacts} contacts with {len(chosen)} languages, {written} of them written, and {len(zones)} time zones, "
        f"{lost} of them unknown",
    )


def _distinct(column: str) -> TextClause:
    """The values of a column of contacts, from each to the next by its index: one look for each value."""
    following = f"SELECT {column} FROM tenure.contacts"
    return text(f"""
        WITH RECURSIVE value AS (
            ({following} ORDER BY {column} LIMIT 1)
            UNION ALL
            SELECT ({following} AS later WHERE later.{column} > value.{column} ORDER BY {column} LIMIT 1)
              FROM value WHERE value.{column} IS NOT NULL)
        SELECT {column} FROM value WHERE {column} IS NOT NULL""")


def _exists(time_zone: str) -> bool:
    try:
        reader(SOURCE, time_zone)
    except ValueError:
        return False
    return True


def details_are_asked_after(installation: Installation) -> Evidence:
    """P8.1: nobody who may be asked was last asked more than a year ago, and changes were confirmed."""
    row = installation.connection.execute(
        text(f"""
            SELECT (SELECT count(*) FROM tenure.contacts AS contact
                      JOIN tenure.accounts AS account ON account.id = account_id
                     WHERE coalesce(details_checked_at, contact.created_at) <= now() - interval '1 year' - :patience
                       AND account.status = 'active' AND optional_mail
                       AND NOT EXISTS (SELECT FROM tenure.suppressions
                                        WHERE address = lower(email) AND lifted_at IS NULL)) AS unasked,
                   (SELECT count(*) FROM ({unfinished("tenure.job_requests", "kind")}) AS late
                     WHERE kind = 'details.confirm_change') AS unconfirmed"""),
        {"patience": CHECK_GRACE},
    ).one()
    contacts, changes = (how_many(installation.connection, f"tenure.{each}") for each in ("contacts", "detail_changes"))
    return judged(
        row.unasked == row.unconfirmed == 0,
        f"{contacts} contacts, {row.unasked} not asked for over a year; "
        f"{changes} changes of details, {row.unconfirmed} not confirmed",
    )


@cache
def _looks(company: Company) -> Looks:
    """Every message in every language. Kept, since templates do not change while a process runs."""
    rendered = 0
    found: list[str] = []
    mistaken: dict[str, None] = {}
    for message in MESSAGES.values():
        for language in languages():
            mail = render(
                message.examples()[""],
                language=language,
                time_zone="UTC",
                company=company,
                recipient_name=f"https://{STRANGER}/prize",
            )
            rendered += 1
            try:
                wrong = findings(mail, language=language, own_host=company.website)
            except NotWellFormed as error:
                wrong = [f"{error}."]
            found += (f"{message.name} ({language}): {each}" for each in wrong)
            # It is named twice: where it is quoted, and where it is said that it is not ours. In mail to an address
            # that nobody has confirmed, it is left out.
            named = mail.text.count(STRANGER)
            if f'="https://{STRANGER}' in mail.html or (named > 0 if message.unconfirmed else named < 2):
                mistaken[message.name] = None
    return Looks(rendered, tuple(found), tuple(mistaken))
