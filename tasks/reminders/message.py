"""What a letter says, of the customer as it stands at that moment (B13)."""

from __future__ import annotations

from email_templates.catalogue.reminders import Level, OpenInvoice, PaymentReminder, PromiseBroken
from models.reminders.reminder import LetterKind
from tasks.reminders.ladder import Customer, Letter


def message(customer: Customer, letter: Letter) -> PaymentReminder | PromiseBroken:
    """The context of its e-mail."""
    invoices = tuple(
        OpenInvoice(number=item.debt.number, due_on=item.debt.due_on, still_open=item.debt.owed)
        for item in letter.items
        if item.debt.due_on
    )
    owed = sum(each.still_open for each in invoices)
    if letter.kind is LetterKind.PROMISE_BROKEN:
        promises = [item.debt.promise for item in letter.items if item.debt.promise]
        promised = sum(promise.amount for promise in promises)
        return PromiseBroken(
            account_name=customer.name,
            account_ref=customer.ref,
            currency=customer.currency,
            promised_for=promises[0].until,
            promised=promised,
            received=max(0, promised - owed),
            invoices=invoices,
        )
    assert letter.level is not None  # noqa: S101 - every reminder has one
    fees = customer.fees + sum(item.fee for item in letter.items)
    return PaymentReminder(
        level=Level(letter.level),
        account_name=customer.name,
        account_ref=customer.ref,
        currency=customer.currency,
        as_of=letter.day,
        invoices=invoices,
        others=sum(item.level is not letter.level for item in letter.items),
        fees=fees,
        total=owed + fees,
        pay_by=letter.pay_by,
    )
