"""NOTIFY, REMIND and DELIVER: the customer is told of the record until it counts as delivered (T2, T18).

The window begins with the notice. Delivered means: downloaded through its page; or the notice and all reminders were
accepted by the mail server, the window is over, and the record can still be opened. Nothing is purged before that. A
notice that nobody accepted stops the termination within hours, for a person to mend: not when the window is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.message import Message
from email_templates.catalogue.termination import ExportReady, ExportReminder
from models.mail.email_message import EmailMessage
from models.termination.termination import DeliveredBy, Stage, Step, Termination
from tasks.cases.case import Case, Next, NotYet, StepResult
from tasks.cases.correspondence import Correspondent, accepted_at, correspondents, queue_mail
from tasks.engine.job import ClaimedRow
from tasks.export.archive import tidy
from tasks.failures import Permanent
from tasks.mail.final_check import Withdrawn, final_check
from tasks.ports.context import Ports
from tasks.ports.durations import Terms
from tasks.termination.exporting import archive_of, opened
from tasks.termination.links import new_link

#: The occasions of the mails, see `queue_mail`; one of a re-issue is `ready:` and a number of its own.
READY, REMINDER = "ready", "remind"
#: How long until it is looked again whether the record was fetched or the notice accepted.
LOOK: timedelta = timedelta(hours=1)
#: What the archive holds beside tables and objects: README and manifest.
_OWN_FILES = 2

_STANDING = text("""
    SELECT (SELECT count(*) FROM tenure.termination_steps
             WHERE termination_id = :termination AND step = 'remind' AND state <> 'done') AS reminders_to_come,
           coalesce((SELECT CAST(evidence ->> 'reminders' AS int) FROM tenure.termination_steps
             WHERE termination_id = :termination AND step = 'notify'), 1) AS reminders,
           count(*) FILTER (WHERE state IN ('pending', 'running') OR state = 'unknown' AND sent_again_at IS NULL)
             AS under_way,
           count(DISTINCT split_part(dedupe_key, ':', 4)) FILTER (WHERE message = 'export-reminder' AND state = 'done'
                 AND NOT EXISTS (SELECT FROM tenure.delivery_events
                                  WHERE email_message_id = email.id AND kind IN ('bounced', 'rejected')))
             AS reminders_accepted
      FROM tenure.email_messages AS email
     WHERE termination_id = :termination AND message IN ('export-ready', 'export-reminder')""")
_LAST_REMINDER = text("""
    SELECT max(number) FROM tenure.termination_steps WHERE termination_id = :termination AND step = 'remind'""")


def notify(case: Case, claimed: ClaimedRow) -> StepResult:
    """The mail with the link, to everybody; and when it is to be said again."""
    ports = claimed.ports
    # A record that cannot be opened is announced to nobody.
    opened(ports, case.termination)
    tidy(ports.objects, archive_of(case), case.termination.archive_key or "")
    with ports.database.transaction() as session:
        now = session.scalars(select(func.now())).one()
    until = now + ports.terms.window
    reminders = reminder_times(ports.terms, until)
    return StepResult(
        changes={"available_until": until},
        evidence={"reminders": len(reminders)},
        steps=(
            *(Next(Step.REMIND, number=number, due=at) for number, at in enumerate(reminders, start=1)),
            Next(Step.DELIVER, due=LOOK),
        ),
        record=lambda session: announce(
            session, session.get_one(Termination, case.id), occasion=READY, until=until, ports=ports
        ),
    )


def remind(case: Case, claimed: ClaimedRow) -> StepResult:
    """Say it again, as long as nobody fetched the record."""
    if case.termination.downloaded_at is not None:
        return StepResult(evidence={"downloaded": True})
    opened(claimed.ports, case.termination)

    def record(session: Session) -> None:
        termination = session.get_one(Termination, case.id)
        last = session.execute(_LAST_REMINDER, {"termination": case.id}).scalar_one() == case.number
        about = termination.correspondence or {}

        def context(page: str) -> Message:
            return ExportReminder(
                account_name=about.get("account_name", ""),
                account_ref=about.get("account_ref", ""),
                page=page,
                available_until=_until(termination),
                last=last,
            )

        whom = correspondents(session, termination)
        _write(session, termination, whom, context, occasion=f"{REMINDER}:{case.number}", ports=claimed.ports)

    return StepResult(record=record)


@final_check(ExportReminder)
def still_waiting(session: Session, row: EmailMessage) -> None:
    """Whoever has fetched the record is not reminded of it."""
    found = session.get(Termination, row.termination_id)
    if found is not None and found.downloaded_at is not None:
        raise Withdrawn("The record was downloaded before the reminder left.")


def deliver(case: Case, claimed: ClaimedRow) -> StepResult:
    """sealed -> delivered, or not yet."""
    if case.termination.downloaded_at is not None:
        return _delivered(DeliveredBy.DOWNLOAD)
    until = _until(case.termination)
    with claimed.ports.database.transaction() as session:
        notified = accepted_at(session, case.id, READY)
        standing = session.execute(_STANDING, {"termination": case.id}).one()
    if notified is None:
        if standing.under_way:
            raise NotYet("No mail server has accepted the notice yet that the record is ready.", LOOK)
        raise Permanent(
            "The notice that the record is ready was accepted for nobody, so nothing is purged: send it to an address "
            "that works by `tenure export reissue REF --to ADDRESS`, or hand the link over yourself: `--print`."
        )
    if case.now < until:
        raise NotYet(f"The record can be fetched until {until:%Y-%m-%d %H:%M} UTC.", min(LOOK, until - case.now))
    if standing.reminders_to_come or standing.under_way:
        raise NotYet("The window is over, and reminders have not been accepted yet by the mail server.", LOOK)
    if standing.reminders_accepted < standing.reminders:
        raise Permanent(_few_reminders(standing))
    # Nobody could have fetched what cannot be opened.
    opened(claimed.ports, case.termination)
    return _delivered(DeliveredBy.NOTICE)


def _few_reminders(standing: Row[tuple[int, int, int, int]]) -> str:
    return (
        f"Of {standing.reminders} reminders that the record can be fetched {standing.reminders_accepted} were accepted "
        "by a mail server, so nothing is purged: `tenure export reissue REF` begins a new window with new reminders."
    )


def _delivered(by: DeliveredBy) -> StepResult:
    return StepResult(
        stage=Stage.DELIVERED,
        changes={"delivered_at": func.clock_timestamp(), "delivered_by": by},
        evidence={"by": by},
        steps=(Next(Step.PURGE),),
    )


def announce(
    session: Session,
    termination: Termination,
    *,
    occasion: str,
    until: datetime,
    ports: Ports,
    whom: Sequence[Correspondent] | None = None,
) -> None:
    """Queue the notice to these, or to all correspondents, each with a link of its own."""
    about = termination.correspondence or {}

    def context(page: str) -> Message:
        return ExportReady(
            account_name=about.get("account_name", ""),
            account_ref=about.get("account_ref", ""),
            page=page,
            available_until=until,
            files=files_in(termination),
            records=records_in(termination),
            size=termination.content_size or 0,
            sha256=(termination.manifest_sha256 or b"").hex(),
        )

    to = correspondents(session, termination) if whom is None else whom
    _write(session, termination, to, context, occasion=occasion, ports=ports)


def files_in(termination: Termination) -> int:
    """How many files one finds in the archive: tables and objects, and those that tell of them."""
    tables = sum(map(len, (termination.exported_rows or {}).values()))
    return tables + (termination.exported_objects or 0) + _OWN_FILES


def records_in(termination: Termination) -> int:
    """How many rows of tables are in the archive."""
    return sum(sum(tables.values()) for tables in (termination.exported_rows or {}).values())


def reminder_times(terms: Terms, until: datetime) -> list[datetime]:
    """When it is said again, for a window that ends then: at least once, however short it is (T2)."""
    ahead = [each for each in terms.reminders if each < terms.window] or [terms.window / 2]
    return [until - each for each in sorted(ahead, reverse=True)]


def _write(
    session: Session,
    termination: Termination,
    whom: Sequence[Correspondent],
    context: Callable[[str], Message],
    *,
    occasion: str,
    ports: Ports,
) -> None:
    # Each letter has a link of its own.
    messages = [(each, context(new_link(session, termination, each))) for each in whom]
    session.flush()
    queue_mail(session, termination, messages, occasion, ports)


def _until(termination: Termination) -> datetime:
    if termination.available_until is None:
        raise Permanent("The record has no window in which it can be fetched: it is not sealed.")
    return termination.available_until
