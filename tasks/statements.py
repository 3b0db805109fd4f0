"""Statements: what an account owed when a period closed, as a PDF by mail (P3.1d, B1 to B7).

`statements.plan`, ticked by the clock, turns every period that has closed into rows; `statements.render` makes the
documents of the rows that are due and queues their mails. A second plan finds no closed period; a second render finds
no row, or, after a crash, makes the same bytes under the same key again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from uuid import UUID

from celery import shared_task
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from email_templates.catalogue import StatementReady
from email_templates.documents.statement import Ageing, Line, StatementDocument
from models.account import Account
from models.contact import Contact
from models.statement import Statement
from models.work import WorkState
from tasks import emails
from tasks.drain import Held, Job, drain
from tasks.failpoints import failpoint
from tasks.failures import Permanent, Transient
from tasks.job import Tick
from tasks.ports import Ports, current

#: Accounts planned in one transaction.
PLAN_BATCH = 5_000
#: How long a request waits for those who write to the account's ledger at that moment.
LOCK_SECONDS = 5
LOCK_NOT_AVAILABLE = "55P03"

#: Locked by a statement of its own: the next one then sees all that those did who held these locks before, a statement
#: planned by another planner and an entry just committed, which one taken before the locks might not.
LOCK_DUE = text("""
    SELECT id FROM tenure.accounts WHERE status = 'active' AND statement_due_at <= now()
     ORDER BY statement_due_at LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED""")

#: The same for one account, which is waited for: somebody asked for its statement.
LOCK_ONE = text("""
    SELECT id FROM tenure.accounts WHERE id = :account AND status = 'active' AND statement_due_at <= now()
       FOR NO KEY UPDATE""")

PLAN = text("""
    WITH due AS (
        -- A period opens where the plan before it closed; the first one with its own first day. What the plan before
        -- could see, it has stated, even if that came to nothing; the first one takes all that is older for history.
        SELECT id, period_start, tenure.period_end(period_start, billing_day) AS period_end,
               coalesce(stated_until, tenure.day_begins(period_start, time_zone)) AS opens_at,
               greatest(statement_due_at, stated_until) AS closes_at,
               coalesce(stated_cutoff, cutoff) AS opening_cutoff, cutoff
          FROM tenure.accounts,
               LATERAL (SELECT coalesce(max(sequence), 0) AS cutoff
                          FROM tenure.ledger_entries WHERE account_id = accounts.id) AS seen
         WHERE id = ANY (:accounts)
    ), figures AS (
        SELECT due.id AS account_id, entry.currency,
               coalesce(sum(entry.amount) FILTER (WHERE stated), 0) AS opening,
               count(*) FILTER (WHERE NOT stated) AS line_count, sum(entry.amount) AS closing
          FROM due
          JOIN tenure.ledger_entries AS entry ON entry.account_id = due.id AND entry.occurred_at < due.closes_at,
               LATERAL (SELECT entry.sequence <= due.opening_cutoff AND entry.occurred_at < due.opens_at AS stated)
                       AS earlier
         GROUP BY due.id, entry.currency
    ), planned AS (
        INSERT INTO tenure.statements (account_id, currency, period_start, period_end, opens_at, closes_at,
                                       opening_cutoff, cutoff, opening, closing, line_count)
        SELECT account_id, currency, period_start, period_end, opens_at, closes_at,
               opening_cutoff, cutoff, opening, closing, line_count
          FROM figures JOIN due ON due.id = account_id
         WHERE opening <> 0 OR line_count > 0
            ON CONFLICT (account_id, currency, period_start) DO NOTHING
        RETURNING id
    ), moved AS (
        UPDATE tenure.accounts AS account
           SET period_start = due.period_end, stated_until = due.closes_at, stated_cutoff = due.cutoff
          FROM due WHERE account.id = due.id
        RETURNING account.id
    )
    SELECT (SELECT count(*) FROM moved) AS accounts, (SELECT count(*) FROM planned) AS statements""")

#: The lines that each statement shows: see `models.statement`.
LINES = text("""
    SELECT statement.id AS statement_id, entry.kind, entry.amount, entry.description, entry.occurred_at,
           (entry.occurred_at AT TIME ZONE account.time_zone)::date AS day,
           entry.occurred_at < statement.opens_at AS late
      FROM tenure.statements AS statement
      JOIN tenure.accounts AS account ON account.id = statement.account_id
      JOIN tenure.ledger_entries AS entry
        ON entry.account_id = statement.account_id AND entry.currency = statement.currency
       AND entry.sequence <= statement.cutoff AND entry.occurred_at < statement.closes_at
       AND NOT (entry.sequence <= statement.opening_cutoff AND entry.occurred_at < statement.opens_at)
     WHERE statement.id = ANY (:ids)
     ORDER BY statement.id, entry.occurred_at, entry.sequence""")

#: What is still unpaid of each statement's closing balance. Payments and credits settle what was due first, so what
#: remains are the latest due amounts, back until they make up the balance (B2).
OPEN_ITEMS = text("""
    SELECT statement_id, due_on, least(amount, closing - (running - amount)) AS open
      FROM (SELECT statement.id AS statement_id, statement.closing, entry.amount,
                   coalesce(entry.due_on, (entry.occurred_at AT TIME ZONE account.time_zone)::date) AS due_on,
                   sum(entry.amount) OVER (
                       PARTITION BY statement.id
                       ORDER BY coalesce(entry.due_on, (entry.occurred_at AT TIME ZONE account.time_zone)::date) DESC,
                                entry.sequence DESC) AS running
              FROM tenure.statements AS statement
              JOIN tenure.accounts AS account ON account.id = statement.account_id
              JOIN tenure.ledger_entries AS entry
                ON entry.account_id = statement.account_id AND entry.currency = statement.currency
               AND entry.sequence <= statement.cutoff AND entry.occurred_at < statement.closes_at AND entry.amount > 0
             WHERE statement.id = ANY (:ids) AND statement.closing > 0) AS owed
     WHERE running - amount < closing""")


@dataclass(frozen=True, slots=True)
class Recipient:
    contact_id: UUID
    email: str
    language: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class ToRender:
    """A statement's row and what it shows; `open_items` are `(due on, minor units)`."""

    statement: Statement
    account: Account
    lines: Sequence[Line]
    open_items: Sequence[tuple[date, int]]
    recipients: Sequence[Recipient]

    def document(self) -> StatementDocument:
        """The figures as they leave. Raises Permanent where they do not add up (B1, B2)."""
        last_day = self.statement.period_end - timedelta(days=1)
        if len(self.lines) != self.statement.line_count:
            raise Permanent(
                f"The statement was planned with {self.statement.line_count} lines, its ledger has {len(self.lines)}: "
                "somebody changed the ledger past its guard. Compare tenure.ledger_entries with a backup."
            )
        try:
            return StatementDocument(
                number=f"{self.account.ref}-{self.statement.period_start:%Y%m%d}-{self.statement.currency}",
                account_name=self.account.name,
                account_ref=self.account.ref,
                address=tuple(self.account.address),
                currency=self.statement.currency,
                period_start=self.statement.period_start,
                period_end=last_day,
                issued_on=self.statement.period_end,
                opening=self.statement.opening,
                lines=tuple(self.lines),
                closing=self.statement.closing,
                ageing=age(self.statement.closing, self.open_items, last_day),
            )
        except ValueError as error:
            raise Permanent(str(error)) from error


@dataclass(frozen=True, slots=True)
class Rendered:
    statement: Statement
    document: StatementDocument
    recipients: Sequence[Recipient]
    key: str
    sha256: bytes = field(repr=False)
    size: int


def plan(ports: Ports, *, account_id: UUID | None = None) -> dict[str, int]:
    """Make a row for every account, currency and period that has closed; of one account, or of all.

    One period of an account at a time, so that an account which was not looked at for months catches up. Any number of
    planners may run: they share the accounts out by row locks, and the unique index would refuse a second row (B4).
    """
    counts = {"accounts": 0, "planned": 0}
    while not ports.stopping():
        with ports.database.transaction() as session:
            accounts, statements = plan_batch(session, account_id)
            failpoint("statements.plan", "before_commit")
        failpoint("statements.plan", "after_commit")
        counts["accounts"] += accounts
        counts["planned"] += statements
        if not accounts:
            break
    return counts


def plan_batch(session: Session, account_id: UUID | None = None) -> tuple[int, int]:
    """Plan one closed period of up to `PLAN_BATCH` accounts; returns how many accounts moved on and rows were made."""
    if account_id is None:
        accounts = session.scalars(LOCK_DUE, {"batch": PLAN_BATCH}).all()
    else:
        accounts = session.scalars(LOCK_ONE, {"account": account_id}).all()
    if not accounts:
        return 0, 0
    row = session.execute(PLAN, {"accounts": list(accounts)}).one()
    return row.accounts, row.statements


def age(closing: int, open_items: Sequence[tuple[date, int]], as_of: date) -> Ageing:
    """Sort what is unpaid by the days since it was due, on the local day `as_of`; minor units (B2).

    The buckets add up to `closing`: a negative balance is unapplied credit.
    """
    buckets = [0, 0, 0, 0, 0]
    for due_on, amount in open_items:
        days = (as_of - due_on).days
        buckets[0 if days <= 0 else min((days - 1) // 30 + 1, 4)] += amount
    return Ageing(
        not_due=buckets[0],
        days_1_30=buckets[1],
        days_31_60=buckets[2],
        days_61_90=buckets[3],
        over_90=buckets[4],
        unapplied_credit=max(-closing, 0),
    )


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, ToRender]:
    """Everything that a batch of statements shows, in four queries."""
    found = session.execute(
        select(Statement, Account).join(Account, Account.id == Statement.account_id).where(Statement.id.in_(ids))
    ).all()
    lines: dict[UUID, list[Line]] = defaultdict(list)
    for row in session.execute(LINES, {"ids": list(ids)}):
        lines[row.statement_id].append(
            Line(date=row.day, description=row.description, amount=row.amount, late=row.late, kind=row.kind)
        )
    open_items: dict[UUID, list[tuple[date, int]]] = defaultdict(list)
    for row in session.execute(OPEN_ITEMS, {"ids": list(ids)}):
        open_items[row.statement_id].append((row.due_on, int(row.open)))
    recipients: dict[UUID, list[Recipient]] = defaultdict(list)
    for contact in session.scalars(
        select(Contact)
        .where(Contact.account_id.in_({account.id for _, account in found}), Contact.receives_statements)
        .order_by(Contact.created_at, Contact.id)
    ):
        recipients[contact.account_id].append(Recipient(contact.id, contact.email, contact.language, contact.time_zone))
    return {
        statement.id: ToRender(
            statement, account, lines[statement.id], open_items[statement.id], recipients[account.id]
        )
        for statement, account in found
    }


def render(item: ToRender, held: Held) -> Rendered:
    """Make the PDF and store it under a key that the row fixes: made again, it is the same object (B3, B5)."""
    # Typst and its fonts are loaded by the processes that render, not by every one that imports tasks.
    from email_templates.documents.pdf import render_statement  # noqa: PLC0415

    statement = item.statement
    if not item.recipients:
        raise Permanent(
            "The account has no contact that receives statements: set contacts.receives_statements of one, then retry."
        )
    document = item.document()
    first = item.recipients[0]
    body = render_statement(
        document, company=held.ports.letterhead.company, language=first.language, time_zone=first.time_zone
    )
    key = f"statements/{statement.account_id}/{statement.id}.pdf"
    failpoint(RENDER.task, "before_store")
    held.ports.objects.put(key, body, content_type="application/pdf")
    failpoint(RENDER.task, "after_store")
    return Rendered(statement, document, item.recipients, key, hashlib.sha256(body).digest(), len(body))


def record(session: Session, results: Mapping[UUID, Rendered], ports: Ports) -> None:
    """Note where the documents are, and queue a mail to each recipient."""
    rendered = list(results.values())
    session.execute(
        text("""
            UPDATE tenure.statements AS statement
               SET document_key = made.key, document_sha256 = made.sha256, document_bytes = made.size
              FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[]), CAST(:hashes AS bytea[]), CAST(:sizes AS int[]))
                   AS made (id, key, sha256, size)
             WHERE statement.id = made.id"""),
        {
            "ids": [item.statement.id for item in rendered],
            "keys": [item.key for item in rendered],
            "hashes": [item.sha256 for item in rendered],
            "sizes": [item.size for item in rendered],
        },
    )
    messages = [
        message
        for item in rendered
        for message in mails(item.statement, item.document, item.recipients, item.key, "statement")
    ]
    emails.queue(session, messages, ports)


def mails(
    statement: Statement, document: StatementDocument, recipients: Sequence[Recipient], key: str, reason: str
) -> list[emails.Queued]:
    """The mails that carry a statement, one a recipient; for one `reason` they exist once."""
    context = StatementReady.about(document)
    attachment = {"key": key, "filename": f"{document.number}.pdf", "content_type": "application/pdf"}
    return [
        emails.Queued(
            account_id=statement.account_id,
            contact_id=recipient.contact_id,
            to_address=recipient.email,
            context=context,
            dedupe_key=f"{reason}:{statement.id}:{recipient.contact_id}",
            attachments=[attachment],
        )
        for recipient in recipients
    ]


def send_again(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `statements.send`: see to it that the statements of the last closed period go out.

    Periods that the clock has not planned yet are planned now. A statement that is under way is on its way; one that
    was sent before is sent once more for this request.
    """
    session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    try:
        while plan_batch(session, account_id)[0]:
            pass
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        raise Transient("A transaction that writes to the account's ledger is still open: wait for its end.") from None
    latest = select(func.max(Statement.period_start)).where(Statement.account_id == account_id).scalar_subquery()
    found = session.scalars(
        select(Statement).where(Statement.account_id == account_id, Statement.period_start == latest)
    ).all()
    if not found:
        raise Permanent("The account has no closed period with entries in its ledger yet: there is nothing to state.")
    for item in load(session, [statement.id for statement in found if statement.state == WorkState.DONE]).values():
        key = item.statement.document_key
        if key is not None:
            reason = f"request:{request_id}"
            emails.queue(session, mails(item.statement, item.document(), item.recipients, key, reason), ports)


RENDER: Job[ToRender, Rendered] = Job(
    task="statements.render",
    table=Statement,
    load=load,
    act=render,
    record=record,
    done="rendered",
    batch=50,
    record_every=50,
    feeds=("emails.send",),
)


@shared_task(name="statements.plan", base=Tick)
def plan_statements() -> dict[str, int]:
    ports = current()
    counts = plan(ports)
    if counts["planned"]:
        ports.wake(RENDER.task)
    return counts


@shared_task(name=RENDER.task, base=Tick)
def render_statements() -> dict[str, int]:
    return drain(RENDER, current())
