"""Our words for what a context holds as enumerations and lists, in the reader's language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

from email_templates.catalogue.accounts import Detail
from email_templates.catalogue.payments import Allocation, Method
from email_templates.catalogue.reminders import OpenInvoice
from email_templates.language.plain_text import quoted
from email_templates.language.reader import Reader

#: Invoices that a message lists one by one; with more it would grow past the size at which mail clients cut it off.
LISTED: Final = 40


def payment_method(who: Reader, method: Method, digits: str) -> str:
    """How a payment is made, with the last digits of the card or account where they are known."""
    _ = who.gettext
    match method:
        case Method.CARD:
            return _("Card ending in %(digits)s") % {"digits": digits} if digits else _("Card")
        case Method.DIRECT_DEBIT:
            return _("Direct debit, account ending in %(digits)s") % {"digits": digits} if digits else _("Direct debit")
        case Method.TRANSFER:
            return _("Bank transfer")


def detail(who: Reader, named: Detail) -> str:
    """What a recorded detail is called."""
    _ = who.gettext
    return {
        Detail.ACCOUNT_NAME: _("Name of the account"),
        Detail.ADDRESS: _("Billing address"),
        Detail.TAX_ID: _("Tax number"),
        Detail.BILLING_DAY: _("Billing day"),
        Detail.PAYMENT_METHOD: _("Payment method"),
        Detail.CONTACT_NAME: _("Contact"),
        Detail.EMAIL: _("E-mail address"),
        Detail.LANGUAGE: _("Language"),
        Detail.TIME_ZONE: _("Time zone"),
    }[named]


def due(who: Reader, due_on: date, as_of: date) -> str:
    """The due date, and how many days it lies back where it does."""
    day = who.date(due_on)
    overdue = (as_of - due_on).days
    if overdue <= 0:
        return who.gettext("due on %(day)s") % {"day": day}
    said = who.ngettext("due on %(day)s, one day overdue", "due on %(day)s, %(n)s days overdue", overdue)
    return said % {"day": day, "n": who.number(overdue)}


def open_invoices(
    who: Reader, invoices: Sequence[OpenInvoice], currency: str, as_of: date | None = None
) -> list[tuple[str, ...]]:
    """A row an invoice: its number, what is open of it, and when it was due; and one for those past `LISTED`.

    With `as_of`, a day, it says how long that was before it.
    """
    rows = [
        (
            quoted(invoice.number, who.direction),
            who.money(invoice.still_open, currency),
            due(who, invoice.due_on, as_of or invoice.due_on),
        )
        for invoice in invoices[:LISTED]
    ]
    return rows + _rest(who, (invoice.still_open for invoice in invoices[LISTED:]), currency)


def allocations(who: Reader, settled: Sequence[Allocation], currency: str) -> list[tuple[str, ...]]:
    """A row an invoice: its number, what was settled of it, and what is open now; and one for those past `LISTED`."""
    rows = [
        (
            quoted(each.invoice_number, who.direction),
            who.money(each.amount, currency),
            who.gettext("still open: %(amount)s") % {"amount": who.money(each.still_open, currency)}
            if each.still_open
            else who.gettext("settled"),
        )
        for each in settled[:LISTED]
    ]
    return rows + _rest(who, (each.amount for each in settled[LISTED:]), currency)


def _rest(who: Reader, amounts: Iterable[int], currency: str) -> list[tuple[str, ...]]:
    left = list(amounts)
    if not left:
        return []
    said = who.ngettext("one more invoice", "%(n)s more invoices", len(left)) % {"n": who.number(len(left))}
    return [(said, who.money(sum(left), currency))]
