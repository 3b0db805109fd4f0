"""What every document shows around its figures: letterhead, addressee, facts, page numbers, how to pay.

All of it is written out here, in the reader's language: the templates format nothing and decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from email_templates.language.company import Company
from email_templates.language.plain_text import quoted
from email_templates.language.reader import Reader
from email_templates.pdf.typesetter import FAMILIES

Pair = Sequence[str]

#: Where a sheet of paper is not A4 (CLDR, paperSize).
_US_LETTER: Final = frozenset(["BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"])
#: Chinese characters are drawn as their reader's country draws them.
_HAN: Final = {"JP": "JP", "KR": "KR", "KP": "KR", "TW": "TC", "HK": "HK", "MO": "HK", "CN": "SC", "SG": "SC"}
#: Letters and figures of the first of our fonts, up to Latin Extended-B, and what punctuation goes with them.
_LATIN: Final = re.compile("[ -\u024f\u2009-\u200a\u2010-\u2027\u202f-\u203a\u20ac\u2212]*")
_KANA: Final = re.compile("[\u3040-\u30ff]")
_HANGUL: Final = re.compile("[\u1100-\u11ff\uac00-\ud7af]")


def sheet(
    who: Reader,
    company: Company,
    *,
    title: str,
    number: str,
    subtitle: str,
    issued_on: date,
    recipient: Sequence[str],
    country: str | None,
    facts: Sequence[Pair],
    summary: Sequence[Pair],
    payment: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content that `letterhead.typ` shows; texts of others are isolated where they run the other way."""
    _ = who.gettext

    def own(text: str) -> str:
        return quoted(text, who.direction)

    before, of, after = (_("Page %(page)s of %(pages)s") % {"page": "\0", "pages": "\0"}).split("\0")
    return {
        "lang": who.language,
        "region": who.locale.territory,
        "direction": who.direction,
        "paper": "us-letter" if who.locale.territory in _US_LETTER else "a4",
        "fonts": [*FAMILIES, f"Noto Sans CJK {_han(country, recipient)}"],
        "accent": company.accent,
        "digits": list(who.digits),
        "issued_on": [issued_on.year, issued_on.month, issued_on.day],
        "title": title,
        "number": own(number),
        # What a viewer's title bar shows needs no isolates.
        "name": f"{title} {number}",
        "subtitle": subtitle,
        "company": {
            "plain": company.name,
            "name": own(company.name),
            "address": [own(line) for line in company.address],
            "reach": [own(company.email), own(company.website)],
            "registration": [own(line) for line in company.registration],
            "logo": company.logo or None,
        },
        "recipient": [own(line) for line in recipient],
        "facts": [[label, own(value)] for label, value in facts],
        "summary": [list(pair) for pair in summary],
        "payment": payment,
        "page": [before, of, after],
    }


def payment(
    who: Reader, company: Company, *, amount: int, currency: str, due_on: date | None, reference: str
) -> dict[str, Any] | None:
    """Where and by when to pay; None where the company names no bank, or nothing is owed."""
    if amount <= 0 or not company.bank_account:
        return None
    _ = who.gettext
    asked = {"amount": who.money(amount, currency)}
    if due_on is None:
        request = _("Please transfer %(amount)s.") % asked
    else:
        request = _("Please transfer %(amount)s by %(day)s.") % {**asked, "day": who.date(due_on)}
    labels = [_("Bank account"), *[""] * len(company.bank_account)]
    return {
        "title": _("How to pay"),
        "request": request,
        "facts": [
            *([label, quoted(line, who.direction)] for label, line in zip(labels, company.bank_account, strict=False)),
            [_("Reference"), quoted(reference, who.direction)],
        ],
    }


def extent(rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How large a table of these texts is, for `dimensions` in `letterhead.typ`.

    The longest text of each column, and whether all of them are in letters of one height.
    """
    return {
        "longest": [max(column, key=len) for column in zip(*rows, strict=True)],
        "latin": all(text.isascii() or _LATIN.fullmatch(text) for row in rows for text in row),
    }


def _han(country: str | None, lines: Sequence[str]) -> str:
    form = _HAN.get(country or "")
    if form:
        return form
    text = "".join(lines)
    return "JP" if _KANA.search(text) else "KR" if _HANGUL.search(text) else "SC"
