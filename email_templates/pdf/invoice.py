"""An invoice or a credit note as PDF, on the letterhead of the statements (B6, B8, B10)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from email_templates.figures.invoice import DocumentKind, InvoiceDocument
from email_templates.language.company import Company
from email_templates.language.plain_text import clean, quoted
from email_templates.language.reader import Reader, reader
from email_templates.pdf.sheet import extent, payment, sheet
from email_templates.pdf.typesetter import typeset


def render_invoice(document: InvoiceDocument, *, company: Company, language: str) -> bytes:
    """The document as a PDF file in the reader's language, and in English where we do not write theirs."""
    who = reader(language, "UTC")
    return typeset("invoice.typ", _content(clean(document), clean(company), who), document.issued_on)


def _content(document: InvoiceDocument, company: Company, who: Reader) -> dict[str, Any]:
    _ = who.gettext
    credit_note = document.kind is DocumentKind.CREDIT_NOTE

    def money(minor: int) -> str:
        return who.money(minor, document.currency)

    common = sheet(
        who,
        company,
        title=_("Credit note") if credit_note else _("Invoice"),
        number=document.number,
        subtitle=_subtitle(document, who),
        issued_on=document.issued_on,
        recipient=[document.buyer.name, *document.buyer.address],
        country=document.buyer.country,
        facts=_facts(document, who),
        summary=[
            (_("Net"), money(document.net)),
            (_("Tax"), money(document.tax)),
            *([] if credit_note or document.due_on is None else [(_("Due on"), who.date(document.due_on))]),
            (_("Total credited"), money(document.total)) if credit_note else (_("Amount due"), money(document.due)),
        ],
        payment=None
        if credit_note
        else payment(
            who,
            company,
            amount=document.due,
            currency=document.currency,
            due_on=document.due_on,
            reference=document.number,
        ),
    )
    return common | {
        "reason": quoted(document.reason, who.direction) if document.reason else None,
        "lines": _lines(document, who),
        "taxes": _taxes(document, who),
        "totals": _totals(document, who),
    }


def _subtitle(document: InvoiceDocument, who: Reader) -> str:
    if document.corrects:
        return who.gettext("For invoice %(number)s") % {"number": quoted(document.corrects, who.direction)}
    if document.period_start and document.period_end:
        return who.period(document.period_start, document.period_end)
    return who.date(document.issued_on)


def _facts(document: InvoiceDocument, who: Reader) -> list[tuple[str, str]]:
    _ = who.gettext
    credit_note = document.kind is DocumentKind.CREDIT_NOTE
    facts = [
        (_("Credit note number") if credit_note else _("Invoice number"), document.number),
        (_("Account"), document.buyer.ref),
        (_("Issued on"), who.date(document.issued_on)),
    ]
    if not credit_note and document.payment_terms is not None:
        terms = _("Payable at once")
        if document.payment_terms:
            terms = who.ngettext("Payable within %(n)s day", "Payable within %(n)s days", document.payment_terms)
            terms %= {"n": who.number(document.payment_terms)}
        facts.append((_("Terms"), terms))
    if document.buyer.tax_id:
        facts.append((_("Your tax number"), document.buyer.tax_id))
    return [*facts, (_("Currency"), document.currency)]


def _lines(document: InvoiceDocument, who: Reader) -> dict[str, Any]:
    _ = who.gettext

    def figure(minor: int) -> str:
        return who.figure(minor, document.currency)

    rows = [
        [
            who.short_date(line.date),
            quoted(line.description, who.direction),
            _rate(line.tax_rate, line.tax_category, who),
            figure(line.net),
            figure(line.gross),
        ]
        for line in document.lines
    ]
    return extent(rows) | {
        "title": _("Items"),
        "head": [
            _("Date"),
            _("Description"),
            _("Tax rate"),
            _("Net"),
            _("Amount (%(currency)s)") % {"currency": quoted(document.currency, who.direction)},
        ],
        "rows": rows,
        "total": [_("Total"), figure(document.net), figure(document.total)],
    }


def _taxes(document: InvoiceDocument, who: Reader) -> dict[str, Any]:
    _ = who.gettext
    notes = {
        "AE": _("Reverse charge: the recipient owes the tax."),
        "E": _("Exempt from tax."),
        "G": _("Export outside the country: free of tax."),
        "K": _("Supply within the European Union: free of tax."),
        "O": _("Not subject to tax."),
    }
    categories = dict.fromkeys(tax.tax_category for tax in document.taxes)
    return {
        "title": _("Tax"),
        "head": [_("Tax rate"), _("Net"), _("Tax")],
        "rows": [
            [
                _rate(tax.tax_rate, tax.tax_category, who),
                who.figure(tax.base, document.currency),
                who.figure(tax.tax, document.currency),
            ]
            for tax in document.taxes
        ],
        "notes": [notes[category] for category in categories if category in notes],
    }


def _totals(document: InvoiceDocument, who: Reader) -> dict[str, Any]:
    _ = who.gettext
    rows = [(_("Net"), document.net), (_("Tax"), document.tax)]
    last = (_("Total credited"), document.total)
    if document.kind is DocumentKind.INVOICE:
        last = (_("Amount due"), document.due)
        if document.settled:
            rows += [(_("Total"), document.total), (_("Settled already"), -document.settled)]
    return {
        "title": _("Summary"),
        "rows": [[label, who.money(amount, document.currency)] for label, amount in rows],
        "last": [last[0], who.money(last[1], document.currency)],
    }


def _rate(basis_points: int, category: str, who: Reader) -> str:
    return "–" if category == "O" else who.percent(Decimal(basis_points) / 10_000)
