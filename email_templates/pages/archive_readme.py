"""The README of a customer's record (P6.1): what the archive holds and how one reads it, for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from email_templates.language.company import Company
from email_templates.language.plain_text import one_line, quoted
from email_templates.language.reader import Reader, reader

_WIDTH: Final = 78


@dataclass(frozen=True, slots=True)
class Kept:
    """What a law makes us keep after all else is deleted (T8); the words are an operator's."""

    what: str
    law: str
    until: date
    #: What of it is made unrecognisable at once.
    redacted: tuple[str, ...] = ()


def record_readme(*, company: Company, account_name: str, language: str, kept: Sequence[Kept] = ()) -> str:
    """Plain text in the reader's language, and in English where we do not write theirs; ends in a line break."""
    who = reader(language, "UTC")
    _ = who.gettext
    values = {
        "company": quoted(one_line(company.name), who.direction),
        "account": quoted(one_line(account_name), who.direction),
        "email": company.email,
    }
    paragraphs = [
        _("This archive holds the information that %(company)s kept for %(account)s.") % values,
        _(
            "The folder “tables” has one CSV file for each kind of record. Every spreadsheet program opens them; "
            "choose UTF-8 where it asks. The folder “files” has your files and documents, just as they were."
        ),
        _(
            "An empty cell means that nothing was recorded. Dates and times are in UTC. Cells that begin with a "
            "bracket hold lists and nested values, written as JSON."
        ),
        _(
            "Where a text begins with an apostrophe followed by a sign such as =, +, - or @, we added the apostrophe "
            "so that no spreadsheet program takes the text for a formula."
        ),
        _(
            "The file “manifest.json” is for programs. It says what each file holds and has a checksum of each, and it "
            "names what is not in this archive, with the reason."
        ),
        *_retained(who, kept),
        _("Questions? Please write to %(email)s.") % values,
    ]
    return "\n\n".join(textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False) for paragraph in paragraphs) + "\n"


def _retained(who: Reader, kept: Sequence[Kept]) -> Iterator[str]:
    if not kept:
        return
    _ = who.gettext
    yield _(
        "When we delete all this information from our systems, the law requires us to keep the following for longer. "
        "It is deleted by itself as soon as its time is over."
    )
    for each in kept:
        until = _("%(law)s, until %(day)s") % {"law": _theirs(each.law, who), "day": who.date(each.until)}
        said = _("%(label)s: %(value)s") % {"label": _theirs(each.what, who), "value": until}
        if each.redacted:
            names = ", ".join(_theirs(name, who) for name in each.redacted)
            said += ". " + _("Of this we remove at once: %(columns)s.") % {"columns": names}
        yield said


def _theirs(text: str, who: Reader) -> str:
    return quoted(one_line(text), who.direction)
