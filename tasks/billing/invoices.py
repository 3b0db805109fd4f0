"""Invoices and credit notes: documents with a number, as a PDF by mail (P3.1d, B8 to B10).

`invoices.issue_due`, ticked by the clock, issues the invoice of each period that has closed
(`tasks/billing/invoice_issue.py`); credit notes come by request or by hand (`tasks/billing/credit_notes.py`).
`invoices.render` makes the documents of both and queues their mails. A second issue finds no closed period and no
charge that is on no invoice yet; a second render finds no row, or, after a crash, makes the same bytes under the same
key again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from celery import shared_task
from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.invoices import InvoiceCredited, InvoiceIssued, Tax
from email_templates.catalogue.message import Message
from email_templates.figures.invoice import Buyer, DocumentKind, InvoiceDocument, InvoiceLine, InvoiceTax
from email_templates.language.company import Company
from models.billing import invoice as models
from models.billing.invoice import Invoice
from models.billing.letterhead import Letterhead
from models.customers.account import Account
from models.data_map.places import AccountPlace
from models.work.request import JobRequest
from models.work.row import WorkState
from tasks.billing import documents
from tasks.billing.credit_notes import CreditRefused, credit
from tasks.billing.documents import Carried, Recipient, Stored
from tasks.billing.invoice_issue import issue, issue_batch
from tasks.client.requests import InvoicesIssue, InvoicesSend, InvoicesVoid
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, ClaimedRow, Job
from tasks.engine.locks import lock_timeout
from tasks.engine.task import Tick, tick
from tasks.failures import Permanent
from tasks.mail import queue
from tasks.ports.context import Ports, current
from tasks.requests.registry import handles
from tasks.storage.object_keys import ObjectKeys, object_keys

#: What the tax is called in mails; a document shows its rate and category.
TAX_NAME = "VAT"

#: What was settled of an invoice when it was issued; of a credit note, how much of it its invoice took, and what was
#: open of that then. Both follow from allocations that are never changed: what comes later has a higher sequence.
SETTLED = text("""
    SELECT invoice.id, NULL AS corrects, NULL::bigint AS corrected_total, NULL::bigint AS still_open,
           coalesce(sum(allocation.amount), 0)::bigint AS settled
      FROM tenure.invoices AS invoice
      JOIN tenure.open_items AS item ON item.invoice_id = invoice.id
      LEFT JOIN tenure.allocations AS allocation
             ON allocation.debit_id = item.id AND allocation.sequence = item.sequence
     WHERE invoice.id = ANY (:ids) GROUP BY invoice.id
     UNION ALL
    SELECT note.id, corrected.number, corrected.total,
           (corrected.total
            - coalesce(sum(allocation.amount) FILTER (WHERE allocation.sequence <= entry.sequence), 0))::bigint,
           coalesce(sum(allocation.amount) FILTER (WHERE allocation.credit_id = credit.id
                                                   AND allocation.sequence = entry.sequence), 0)::bigint
      FROM tenure.invoices AS note
      JOIN tenure.invoices AS corrected ON corrected.id = note.corrects_id
      JOIN tenure.ledger_entries AS entry
        ON entry.account_id = note.account_id AND entry.external_ref = 'credit-note:' || note.number
      JOIN tenure.open_items AS credit ON credit.entry_id = entry.id
      JOIN tenure.open_items AS debit ON debit.invoice_id = corrected.id
      LEFT JOIN tenure.allocations AS allocation ON allocation.debit_id = debit.id
     WHERE note.id = ANY (:ids) GROUP BY note.id, corrected.id""")


@dataclass(frozen=True, slots=True)
class Corrected:
    """The invoice that a credit note corrects, and what was open of it afterwards."""

    number: str
    total: int
    still_open: int


@dataclass(frozen=True, slots=True)
class ToRender:
    """An invoice or credit note, what it shows, and who gets it."""

    invoice: Invoice
    company: Company
    lines: Sequence[InvoiceLine]
    taxes: Sequence[InvoiceTax]
    #: What was set off against it at once.
    settled: int
    corrected: Corrected | None
    recipients: Sequence[Recipient]
    #: For which its document is sealed: those of its batch.
    keys: ObjectKeys

    def document(self) -> InvoiceDocument:
        """The figures as they leave. Raises Permanent where they do not add up."""
        row = self.invoice
        try:
            return InvoiceDocument(
                kind=DocumentKind(row.kind),
                number=row.number,
                issued_on=row.issued_on,
                currency=row.currency,
                buyer=msgspec.convert(row.buyer, Buyer),
                lines=tuple(self.lines),
                taxes=tuple(self.taxes),
                net=row.net,
                tax=row.tax,
                total=row.total,
                due_on=row.due_on,
                payment_terms=row.payment_terms,
                period_start=row.period_start,
                period_end=row.period_end,
                settled=0 if self.corrected else self.settled,
                corrects=self.corrected.number if self.corrected else None,
                reason=row.reason,
            )
        except ValueError as error:
            raise Permanent(str(error)) from error

    def message(self) -> Message:
        """What the mail says: the same figures."""
        row = self.invoice
        buyer = msgspec.convert(row.buyer, Buyer)
        if self.corrected:
            return InvoiceCredited(
                credit_note_number=row.number,
                invoice_number=self.corrected.number,
                account_name=buyer.name,
                account_ref=buyer.ref,
                currency=row.currency,
                issued_on=row.issued_on,
                invoice_total=self.corrected.total,
                credited=row.total,
                still_open=self.corrected.still_open,
                kept=row.total - self.settled,
                reason=row.reason or "",
            )
        return InvoiceIssued(
            invoice_number=row.number,
            account_name=buyer.name,
            account_ref=buyer.ref,
            currency=row.currency,
            issued_on=row.issued_on,
            due_on=row.due_on,
            net=row.net,
            taxes=tuple(
                Tax(name=TAX_NAME, rate=tax.tax_rate, amount=tax.tax) for tax in self.taxes if tax.tax_category == "S"
            ),
            total=row.total,
            settled=self.settled,
            to_pay=row.total - self.settled,
            period_start=row.period_start,
            period_end=row.period_end,
        )

    def carried(self, key: str) -> Carried:
        return Carried(self.invoice.account_id, self.invoice.id, self.message(), key, self.invoice.number)


@dataclass(frozen=True, slots=True)
class Rendered:
    item: ToRender
    stored: Stored


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, ToRender]:
    """Everything that a batch of documents shows, and their accounts' keys, in six queries."""
    found = session.execute(
        select(models.InvoiceDocument.id, Invoice, Letterhead.content)
        .join(Invoice, Invoice.id == models.InvoiceDocument.invoice_id)
        .join(Letterhead, Letterhead.sha256 == Invoice.letterhead)
        .where(models.InvoiceDocument.id.in_(ids))
    ).all()
    invoices = [invoice.id for _, invoice, _ in found]
    companies = {invoice.letterhead: msgspec.convert(content, Company) for _, invoice, content in found}
    lines: dict[UUID, list[InvoiceLine]] = defaultdict(list)
    for line in session.execute(
        select(models.InvoiceLine.__table__)
        .where(models.InvoiceLine.invoice_id.in_(invoices))
        .order_by(models.InvoiceLine.invoice_id, models.InvoiceLine.position)
    ):
        lines[line.invoice_id].append(
            InvoiceLine(
                date=line.occurred_on,
                description=line.description,
                net=line.net,
                gross=line.gross,
                tax_rate=line.tax_rate,
                tax_category=line.tax_category,
            )
        )
    taxes: dict[UUID, list[InvoiceTax]] = defaultdict(list)
    for tax in session.execute(
        select(models.InvoiceTax.__table__)
        .where(models.InvoiceTax.invoice_id.in_(invoices))
        .order_by(models.InvoiceTax.tax_rate.desc(), models.InvoiceTax.tax_category)
    ):
        taxes[tax.invoice_id].append(
            InvoiceTax(base=tax.base, tax=tax.tax, tax_rate=tax.tax_rate, tax_category=tax.tax_category)
        )
    settled = {row.id: row for row in session.execute(SETTLED, {"ids": invoices})}
    recipients = documents.recipients(session, [invoice.account_id for _, invoice, _ in found])
    keys = object_keys(session, [invoice.account_id for _, invoice, _ in found])
    return {
        row: ToRender(
            invoice=invoice,
            company=companies[invoice.letterhead],
            lines=lines[invoice.id],
            taxes=taxes[invoice.id],
            settled=settled[invoice.id].settled,
            corrected=_corrected(settled[invoice.id]),
            recipients=recipients[invoice.account_id],
            keys=keys,
        )
        for row, invoice, _ in found
    }


def _corrected(row: Row[Any]) -> Corrected | None:
    return Corrected(row.corrects, row.corrected_total, row.still_open) if row.corrects else None


def render(item: ToRender, claimed: ClaimedRow) -> Rendered:
    """Make the PDF and store it; the same bytes under the same key whenever it is done."""
    # Typst and its fonts are loaded by the processes that render, not by every one that imports tasks.
    from email_templates.pdf.invoice import render_invoice  # noqa: PLC0415

    documents.require_recipients(item.recipients)
    invoice, ports = item.invoice, claimed.ports
    # First of all: where nothing can be sealed, nothing is made (T27).
    recipient = item.keys.recipient(invoice.account_id, ports.database, ports.keyring)
    failpoint("invoices.render", "before_render")
    body = render_invoice(item.document(), company=item.company, language=invoice.language)
    failpoint("invoices.render", "before_store")
    stored = documents.store(ports, AccountPlace(Invoice, invoice.account_id, f"{invoice.id}.pdf"), body, recipient)
    failpoint("invoices.render", "after_store")
    return Rendered(item, stored)


def record(session: Session, results: Mapping[UUID, Rendered], ports: Ports) -> None:
    """Note where the documents are, and queue a mail to each recipient."""
    documents.note(session, models.InvoiceDocument, {row: result.stored for row, result in results.items()})
    messages = [
        message
        for result in results.values()
        for message in documents.mails(result.item.carried(result.stored.key), result.item.recipients, "invoice")
    ]
    queue.queue(session, messages, ports)


@handles(InvoicesIssue)
def issue_now(session: Session, account_id: UUID, _request_id: UUID, ports: Ports) -> None:
    """For a request `invoices.issue`: invoice at once all that the account was charged and is on no invoice yet."""
    if session.get_one(Account, account_id).invoiced_from is None:
        raise Permanent("The account is not invoiced by Tenure: set accounts.invoiced_from, then retry.")
    with lock_timeout(session):
        issue_batch(session, ports.letterhead.company, account_id)


@handles(InvoicesSend)
def send_again(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `invoices.send`: send a document once more; one that is under way is on its way."""
    invoice = _asked_for(session, account_id, request_id)
    document = session.scalars(select(models.InvoiceDocument).filter_by(invoice_id=invoice.id)).one()
    if document.state != WorkState.DONE or document.document_key is None:
        return
    (item,) = load(session, [document.id]).values()
    documents.require_recipients(item.recipients)
    carried = item.carried(document.document_key)
    queue.queue(session, documents.mails(carried, item.recipients, f"request:{request_id}"), ports)


@handles(InvoicesVoid)
def void(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `invoices.void`: issue a credit note for all that is left of an invoice; a second finds nothing."""
    invoice = _asked_for(session, account_id, request_id)
    with lock_timeout(session):
        try:
            credit(session, ports.letterhead.company, invoice.id)
        except CreditRefused as refusal:
            raise Permanent(f"The credit note was not issued: {refusal}") from None


def _asked_for(session: Session, account_id: UUID, request_id: UUID) -> Invoice:
    number = session.get_one(JobRequest, request_id).args["invoice"]
    invoice = session.scalars(select(Invoice).filter_by(account_id=account_id, number=number)).one_or_none()
    if invoice is None:
        raise Permanent("The account has no invoice of that number.")
    return invoice


RENDER: Job[ToRender, Rendered] = Job(
    task="invoices.render",
    table=models.InvoiceDocument,
    load=load,
    act=render,
    record=record,
    done="rendered",
    batch=50,
    record_every=50,
    wakes=("emails.send",),
    retries=DAYS,
)


@shared_task(name="invoices.issue_due", base=Tick)
def issue_due_invoices() -> dict[str, int]:
    ports = current()
    counts = issue(ports)
    if counts["issued"]:
        ports.wake(RENDER.task)
    return counts


render_invoices = tick(RENDER)
