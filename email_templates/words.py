"""Our words for what a context names by an enumeration, in the reader's language."""

from __future__ import annotations

from datetime import date

from email_templates.catalogue.accounts import Detail
from email_templates.catalogue.payments import Method
from email_templates.reader import Reader


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
