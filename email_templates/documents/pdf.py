"""A statement as PDF: set by Typst, with the figures written by the same `Reader` as in the mail (B6).

The same document gives the same bytes, next year and on another machine (B3): its only date is `issued_on`, its only
fonts are the two that we install, and Typst derives the file's id from what it shows. The file is PDF/A-2a, for
archives that must keep it, and PDF/UA-1, for those who have it read to them.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime, time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import fontpkg_ibm_plex_sans
import fontpkg_ibm_plex_sans_arabic
import typst

from email_templates.company import Company
from email_templates.documents.ageing import ageing_rows
from email_templates.documents.glyphs import covered, drawable
from email_templates.documents.statement import Line, StatementDocument
from email_templates.plain_text import clean, quoted
from email_templates.reader import Reader, reader

_TEMPLATE: Final = Path(__file__).with_name("statement.typ")
_FONTS: Final = tuple(Path(package.ROOT) / "files" for package in (fontpkg_ibm_plex_sans, fontpkg_ibm_plex_sans_arabic))
_STANDARDS: Final[list[typst.PDFStandard]] = ["a-2a", "ua-1"]
#: What a document's bytes depend on beside our own files.
_MADE_BY: Final = ("typst", "babel", "fontpkg-ibm-plex-sans", "fontpkg-ibm-plex-sans-arabic")
#: Where a sheet of paper is not A4 (CLDR, paperSize).
_US_LETTER: Final = frozenset(["BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"])


def render_statement(document: StatementDocument, *, company: Company, language: str) -> bytes:
    """The statement as a PDF file in the reader's language, and in English where we do not write theirs."""
    who = reader(language, "UTC")
    content = _drawable(_content(clean(document), clean(company), who))
    return _typesetter().set(content, datetime.combine(document.issued_on, time(), UTC))


@cache
def typesetter() -> str:
    """Which typesetter, fonts and templates these are: the same name makes the same bytes of the same document."""
    versions = [f"{name} {version(name)}" for name in _MADE_BY]
    folder = _TEMPLATE.parent.parent
    files = [*folder.glob("*.py"), *folder.glob("documents/*"), *folder.glob("locales/*/LC_MESSAGES/*.po")]
    digest = hashlib.sha256(" ".join(versions).encode())
    for file in sorted(file for file in files if file.is_file()):
        digest.update(file.read_bytes())
    return f"{versions[0]}, {digest.hexdigest()[:12]}"


def _content(document: StatementDocument, company: Company, who: Reader) -> dict[str, Any]:
    """All that the template shows, written out: it formats nothing and decides nothing about figures."""
    _ = who.gettext

    def own(text: str) -> str:
        return quoted(text, who.direction)

    def money(minor: int) -> str:
        return who.money(minor, document.currency)

    day = document.issued_on
    number, of, rest = (_("Page %(page)s of %(pages)s") % {"page": "\0", "pages": "\0"}).split("\0")
    return {
        "lang": who.language,
        "region": who.locale.territory,
        "direction": who.direction,
        "paper": "us-letter" if who.locale.territory in _US_LETTER else "a4",
        "digits": list(who.digits),
        "issued_on": [day.year, day.month, day.day],
        "title": _("Statement of account"),
        # What a viewer's title bar shows needs no isolates.
        "name": f"{_('Statement of account')} {document.number}",
        "author": company.name,
        "period": who.period(document.period_start, document.period_end),
        "number": own(document.number),
        "company": {
            "name": own(company.name),
            "address": [own(line) for line in company.address],
            "reach": [own(company.email), own(company.website)],
            "registration": [own(line) for line in company.registration],
        },
        "recipient": [own(document.account_name), *(own(line) for line in document.address)],
        "facts": [
            [_("Statement number"), own(document.number)],
            [_("Account"), own(document.account_ref)],
            [_("Issued on"), who.date(day)],
            [_("Currency"), own(document.currency)],
        ],
        "summary": [
            [_("Opening balance"), money(document.opening)],
            [_("Charges"), money(document.charges)],
            [_("Payments and credits"), money(document.payments)],
            [_("Closing balance"), money(document.closing)],
        ],
        "entries": _entries(document, who),
        "ageing": {
            "title": _("How long it has been due"),
            "columns": [list(row) for row in ageing_rows(who, document.ageing, document.currency)],
        },
        "page": [number, of, rest],
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
    return {
        "title": _("Entries"),
        "head": [
            _("Date"),
            _("Description"),
            _("Amount (%(currency)s)") % {"currency": quoted(document.currency, who.direction)},
            _("Balance"),
        ],
        "opening": [_("Opening balance"), who.figure(document.opening, document.currency)],
        "rows": rows,
        "closing": [_("Closing balance"), who.figure(document.closing, document.currency)],
    }


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


def _drawable(value: Any) -> Any:
    if isinstance(value, str):
        return drawable(value, _covered())
    if isinstance(value, list):
        return [_drawable(item) for item in value]
    if isinstance(value, dict):
        return {key: _drawable(item) for key, item in value.items()}
    return value


@cache
def _covered() -> frozenset[int]:
    return covered(font for folder in _FONTS for font in sorted(folder.glob("*-Regular.ttf")) or folder.glob("*.ttf"))


class _Typesetter:
    """One compiler, with its fonts and its parsed template, for the life of the process."""

    def __init__(self) -> None:
        self._compiler = typst.Compiler(
            str(_TEMPLATE),
            root=str(_TEMPLATE.parent),
            font_paths=[str(folder) for folder in _FONTS],
            ignore_system_fonts=True,
        )
        self._lock = threading.Lock()
        self._process: int | None = None

    def set(self, content: dict[str, Any], issued: datetime) -> bytes:
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "A document was set before this process was forked. Typst's threads do not survive a fork, and setting "
                "another would wait for ever: set documents in worker processes alone."
            )
        with self._lock:
            self._process = os.getpid()
            # As data, never as markup: what a customer is called cannot become code.
            pages = self._compiler.compile(
                format="pdf",
                sys_inputs={"content": json.dumps(content, ensure_ascii=False)},
                pdf_standards=_STANDARDS,
                # The template sets the document's date; this is so that nothing in it can ever read the clock.
                timestamp=int(issued.timestamp()),
            )
        if not isinstance(pages, bytes):
            raise TypeError(f"Typst made {type(pages).__name__} of a statement, and a PDF file is bytes.")
        return pages


@cache
def _typesetter() -> _Typesetter:
    return _Typesetter()
