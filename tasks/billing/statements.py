"""Statements: what an account owed when a period closed, as a PDF by mail (P3.1d, B1 to B7).

`statements.plan`, ticked by the clock, turns every period that has closed into rows
(`tasks/billing/statement_plan.py`); `statements.render` and, of many lines, `statements.render_long` make the documents
of the rows that are due and queue their mails. A second plan finds no closed period; a second render finds no row, or,
after a crash, makes the same bytes under the same key again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

import msgspec
from celery import shared_task
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.statements import StatementReady
from email_templates.figures.statement import Ageing, Line, OpenItem, StatementDocument
from email_templates.language.company import Company
from models.billing.letterhead import Letterhead
from models.billing.statement import Statement
from models.data_map.places import AccountPlace
from models.work import row as work
from models.work.row import WorkState
from tasks.billing import documents
from tasks.billing.documents import Carried, Recipient, Stored
from tasks.billing.statement_plan import plan, plan_batch
from tasks.client.requests import StatementsSend
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, ClaimedRow, Job
from tasks.engine.locks import lock_timeout
from tasks.engine.task import Tick, tick
from tasks.failures import Permanent
from tasks.mail import queue
from tasks.ports.context import Ports, current
from tasks.requests.registry import handles
from tasks.storage.object_keys import ObjectKeys, object_keys

#: Statements with more lines are rendered by a job of their own, one at a time: ten thousand lines take seconds.
LONG = 500

#: The lines that each statement shows: see `models.billing.statement`.
LINES = text("""
    SELECT statement.id AS statement_id, entry.kind, entry.amount, entry.description,
           (entry.occurred_at AT TIME ZONE statement.time_zone)::date AS day,
           entry.occurred_at < statement.opens_at AS late
      FROM tenure.statements AS statement
      JOIN tenure.ledger_entries AS entry
        ON entry.account_id = statement.account_id AND entry.currency = statement.currency
       AND entry.sequence <= statement.cutoff AND entry.occurred_at < statement.closes_at
       AND NOT (entry.sequence <= statement.opening_cutoff AND entry.occurred_at < statement.opens_at)
     WHERE statement.id = ANY (:ids)
     ORDER BY statement.id, entry.occurred_at, entry.sequence""")


@dataclass(frozen=True, slots=True)
class ToRender:
    """A statement's row, what it shows, and who gets it."""

    statement: Statement
    company: Company
    lines: Sequence[Line]
    recipients: Sequence[Recipient]
    #: For which its document is sealed: those of its batch.
    keys: ObjectKeys

    def document(self) -> StatementDocument:
        """The figures as they leave. Raises Permanent where they do not add up (B1, B2)."""
        row = self.statement
        if len(self.lines) != row.line_count:
            raise Permanent(
                f"The statement was planned with {row.line_count} lines, its ledger has {len(self.lines)}: "
                "somebody changed the ledger past its guard. Compare tenure.ledger_entries with a backup."
            )
        try:
            return StatementDocument(
                number=f"{row.account_ref}-{row.period_start:%Y%m%d}-{row.currency}",
                account_name=row.account_name,
                account_ref=row.account_ref,
                address=tuple(row.address),
                country=row.country,
                currency=row.currency,
                period_start=row.period_start,
                period_end=row.period_end - timedelta(days=1),
                issued_on=row.period_end,
                opening=row.opening,
                lines=tuple(self.lines),
                closing=row.closing,
                ageing=Ageing(
                    not_due=row.not_due,
                    days_1_30=row.days_1_30,
                    days_31_60=row.days_31_60,
                    days_61_90=row.days_61_90,
                    over_90=row.over_90,
                    unapplied_credit=row.unapplied_credit,
                ),
                open_items=None if row.open_items is None else tuple(_open_item(*item) for item in row.open_items),
            )
        except ValueError as error:
            raise Permanent(str(error)) from error

    @property
    def language(self) -> str:
        """As planned; where nobody received statements then, that of the first who does now."""
        if self.statement.language is None:
            documents.require_recipients(self.recipients)
        return self.statement.language or self.recipients[0].language

    def carried(self, key: str) -> Carried:
        row, document = self.statement, self.document()
        return Carried(row.account_id, row.id, StatementReady.about(document), key, document.number)

    def pdf(self) -> bytes:
        """The same bytes whenever it is made from the same row by the same typesetter (B3)."""
        # Typst and its fonts are loaded by the processes that render, not by every one that imports tasks.
        from email_templates.pdf.statement import render_statement  # noqa: PLC0415

        return render_statement(self.document(), company=self.company, language=self.language)


@dataclass(frozen=True, slots=True)
class Rendered:
    item: ToRender
    stored: Stored


def _open_item(day: str, due_on: str | None, description: str, amount: int, open_amount: int) -> OpenItem:
    return OpenItem(
        date=date.fromisoformat(day),
        due_on=date.fromisoformat(due_on) if due_on else None,
        description=description,
        amount=amount,
        open=open_amount,
    )


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, ToRender]:
    """Everything that a batch of statements shows, and their accounts' keys, in four queries."""
    found = session.execute(
        select(Statement, Letterhead.content)
        .join(Letterhead, Letterhead.sha256 == Statement.letterhead)
        .where(Statement.id.in_(ids))
    ).all()
    companies = {row.letterhead: msgspec.convert(content, Company) for row, content in found}
    lines: dict[UUID, list[Line]] = defaultdict(list)
    for line in session.execute(LINES, {"ids": list(ids)}):
        lines[line.statement_id].append(
            Line(date=line.day, description=line.description, amount=line.amount, late=line.late, kind=line.kind)
        )
    recipients = documents.recipients(session, [row.account_id for row, _ in found])
    keys = object_keys(session, [row.account_id for row, _ in found])
    return {
        row.id: ToRender(row, companies[row.letterhead], lines[row.id], recipients[row.account_id], keys)
        for row, _ in found
    }


def render(item: ToRender, claimed: ClaimedRow) -> Rendered:
    """Make the PDF and store it; the same bytes under the same key whenever it is done (B3, B5)."""
    documents.require_recipients(item.recipients)
    statement, ports = item.statement, claimed.ports
    # First of all: where nothing can be sealed, nothing is made (T27).
    recipient = item.keys.recipient(statement.account_id, ports.database, ports.keyring)
    failpoint(RENDER.task, "before_render")
    body = item.pdf()
    failpoint(RENDER.task, "before_store")
    stored = documents.store(
        ports, AccountPlace(Statement, statement.account_id, f"{statement.id}.pdf"), body, recipient
    )
    failpoint(RENDER.task, "after_store")
    return Rendered(item, stored)


def record(session: Session, results: Mapping[UUID, Rendered], ports: Ports) -> None:
    """Note where the documents are and in which language, and queue a mail to each recipient."""
    documents.note(session, Statement, {row: result.stored for row, result in results.items()})
    session.execute(
        text("""
            UPDATE tenure.statements AS statement SET language = made.language
              FROM unnest(CAST(:ids AS uuid[]), CAST(:languages AS text[])) AS made (id, language)
             WHERE statement.id = made.id AND statement.language IS NULL"""),
        {"ids": list(results), "languages": [result.item.language for result in results.values()]},
    )
    messages = [
        message
        for result in results.values()
        for message in documents.mails(result.item.carried(result.stored.key), result.item.recipients, "statement")
    ]
    queue.queue(session, messages, ports)


@handles(StatementsSend)
def send_again(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `statements.send`: see to it that the statements of the last closed period go out.

    Periods that the clock has not planned yet are planned now. A statement that is under way is on its way; one that
    was sent before is sent once more for this request; one that failed is tried again.
    """
    with lock_timeout(session):
        while plan_batch(session, ports.letterhead.company, account_id)[0]:
            pass
    latest = select(func.max(Statement.period_start)).where(Statement.account_id == account_id).scalar_subquery()
    found = session.scalars(
        select(Statement).where(Statement.account_id == account_id, Statement.period_start == latest)
    ).all()
    if not found:
        raise Permanent("The account has no closed period with entries in its ledger yet: there is nothing to state.")
    failed = [statement.id for statement in found if statement.state == WorkState.FAILED]
    if failed:
        work.retry(session.connection(), Statement, failed)
    for item in load(session, [statement.id for statement in found if statement.state == WorkState.DONE]).values():
        documents.require_recipients(item.recipients)
        key = item.statement.document_key
        if key is not None:
            queue.queue(session, documents.mails(item.carried(key), item.recipients, f"request:{request_id}"), ports)


def _job(task: str, where: str, batch: int) -> Job[ToRender, Rendered]:
    return Job(
        task, Statement, load, render, record, done="rendered", batch=batch, record_every=batch, where=where,
        wakes=("emails.send",), retries=DAYS,
    )  # fmt: skip


RENDER = _job("statements.render", f"line_count <= {LONG}", 50)
#: Apart, so that no short statement waits in one batch with a long one.
RENDER_LONG = _job("statements.render_long", f"line_count > {LONG}", 1)


@shared_task(name="statements.plan", base=Tick)
def plan_statements() -> dict[str, int]:
    ports = current()
    counts = plan(ports)
    if counts["planned"]:
        ports.wake(RENDER.task)
        ports.wake(RENDER_LONG.task)
    return counts


render_statements = tick(RENDER)


render_long_statements = tick(RENDER_LONG)
