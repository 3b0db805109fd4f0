"""A statement as PDF, with the figures written by the same `Reader` as in the mail (B6)."""

from __future__ import annotations

from typing import Any

from email_templates.figures.ageing import ageing_rows
from email_templates.figures.statement import Line, OpenItem, StatementDocument
from email_templates.language.company import Company
from email_templates.language.plain_text import clean, quoted
from email_templates.language.reader import Reader, reader
from email_templates.pdf.sheet import extent, payment, sheet
from email_templates.pdf.typesetter import typeset


def render_statement(document: StatementDocument, *, company: Company, language: str) -> bytes:
    """The statement as a PDF file in the reader's language, and in English where we do not write theirs."""
    who = reader(language, "UTC")
    return typeset("statement.typ", _content(clean(document), clean(company), who), document.issued_on)


def _content(document: StatementDocument, company: Company, who: Reader) -> dict[str, Any]:
    _ = who.gettext

    def money(minor: int) -> str:
        return who.money(minor, document.currency)

    common = sheet(
        who,
        company,
        title=_("Statement of account"),
        number=document.number,
        subtitle=who.period(document.period_start, document.period_end),
        issued_on=document.issued_on,
        recipient=[document.account_name, *document.address],
        country=document.country,
        facts=[
            (_("Statement number"), document.number),
            (_("Account"), document.account_ref),
            (_("Issued on"), who.date(document.issued_on)),
            (_("Currency"), document.currency),
        ],
        summary=[
            (_("Opening balance"), money(document.opening)),
            (_("Charges"), money(document.charges)),
            (_("Payments and credits"), money(document.payments)),
            (_("Closing balance"), money(document.closing)),
        ],
        payment=payment(
            who,
            company,
            amount=document.closing,
            currency=document.currency,
            due_on=None,
            reference=document.number,
        ),
    )
    return common | {
        "entries": _entries(document, who),
        "open_items": None if document.open_items is None else _open_items(document, document.open_items, who),
        "ageing": {
            "title": _("How long it has been due"),
            "columns": [list(row) for row in ageing_rows(who, document.ageing, document.currency)],
        },
    }


def _entries(document: StatementDocument, who: Reader) -> dict[str, Any]:
    """The table of lines, each with the balance after it, so that a reader can follow the sum."""
    _ = who.gettext
    late = _("recorded late")
    balance, rows = document.opening, []
    for line in document.lines:
        balance += line.amount
        rows.append(
            [
                who.short_date(line.date),
                quoted(_described(line, who), who.direction),
                late if line.late else "",
                who.figure(line.amount, document.currency),
                who.figure(balance, document.currency),
            ]
        )
    opening = [_("Opening balance"), who.figure(document.opening, document.currency)]
    return extent(
        [
            ["", opening[0], "", opening[1]],
            *([day, f"{words} ({late})" if late else words, *figures] for day, words, late, *figures in rows),
        ]
    ) | {
        "title": _("Entries"),
        "head": [_("Date"), _("Description"), _amount_in(document.currency, who), _("Balance")],
        "opening": opening,
        "rows": rows,
        "closing": [_("Closing balance"), who.figure(document.closing, document.currency)],
    }


def _open_items(document: StatementDocument, items: tuple[OpenItem, ...], who: Reader) -> dict[str, Any]:
    """What the closing balance is made of, with the days by which it was to be paid."""
    _ = who.gettext
    rows = [
        [
            who.short_date(item.date),
            who.short_date(item.due_on) if item.due_on and item.open > 0 else "",
            quoted(item.description, who.direction),
            who.figure(item.amount, document.currency),
            who.figure(item.open, document.currency),
        ]
        for item in items
    ]
    return extent([[""] * 5, *rows]) | {
        "title": _("Open items"),
        "head": [_("Date"), _("Due on"), _("Description"), _amount_in(document.currency, who), _("Still open")],
        "rows": rows,
        "overdue": [item.due_on is not None and item.open > 0 and item.due_on < document.period_end for item in items],
        "total": [_("Closing balance"), who.figure(document.closing, document.currency)],
    }


def _amount_in(currency: str, who: Reader) -> str:
    return who.gettext("Amount (%(currency)s)") % {"currency": quoted(currency, who.direction)}


def _described(line: Line, who: Reader) -> str:
    if line.description:
        return line.description
    _ = who.gettext
    kinds = {
        "charge": _("Charge"),
        "payment": _("Payment"),
        "credit": _("Credit"),
        "refund": _("Refund"),
        "chargeback": _("Chargeback"),
    }
    return kinds.get(line.kind, "")
