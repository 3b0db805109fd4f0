"""The page from which a customer downloads the record of their data (T18): whole, from one answer, in their language.

It looks as our mail does, works without a script, and loads nothing: its style stands in it, named by its hash in the
Content-Security-Policy.
"""

from __future__ import annotations

import base64
from datetime import datetime
from enum import StrEnum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from email_templates.language import plain_text
from email_templates.language.company import Company
from email_templates.language.reader import Reader, reader
from email_templates.mail.rendering import NAME_LENGTH, prepared

_FOLDER: Final = Path(__file__).parents[1]


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of a record. Who it is about is not known any more once the last addresses were forgotten."""

    account_name: str
    account_ref: str
    available_until: datetime
    downloaded_at: datetime | None
    records: int
    files: int
    #: Bytes of the ZIP.
    size: int
    #: Of the manifest, in hexadecimal.
    sha256: str


class Refusal(StrEnum):
    """Why there is no record to be had."""

    UNKNOWN = "unknown"
    OVER = "over"
    STALE = "stale"
    AWAY = "away"


def page(offered: Offered, *, language: str, time_zone: str, company: Company) -> str:
    values = msgspec.structs.asdict(offered)
    for name in ("account_name", "account_ref"):
        values[name] = plain_text.cut(plain_text.one_line(values[name]), NAME_LENGTH)
    return _render("record.html", reader(language, time_zone), company, values)


def refusal(why: Refusal, *, language: str, company: Company) -> str:
    who = reader(language, "UTC")
    title, said = _words(who, why)
    return _render("refusal.html", who, company, {"title": title, "said": said})


def style_hash() -> str:
    """The source expression by which a Content-Security-Policy permits the page's style and no other."""
    return f"'sha256-{base64.b64encode(sha256(_css().encode()).digest()).decode()}'"


def _words(who: Reader, why: Refusal) -> tuple[str, str]:
    _ = who.gettext
    match why:
        case Refusal.UNKNOWN:
            return _("This link leads nowhere"), _(
                "Please copy the whole link from our latest message: an older one ends when a new one is sent, and all "
                "end with the time in which the record can be downloaded."
            )
        case Refusal.OVER:
            return _("The record is no longer here"), _("The time in which it could be downloaded is over.")
        case Refusal.STALE:
            return _("This download has expired"), _(
                "For your protection the address of a download is good for some minutes only. Open the link in our "
                "message again and press the button there."
            )
        case Refusal.AWAY:
            return _("Please try again in a few minutes"), _(
                "The record is safe, and we cannot reach it at this moment."
            )


def _render(template: str, who: Reader, company: Company, values: dict[str, Any]) -> str:
    given = {"reader": who, "company": plain_text.clean(company), "css": Markup(_css())}  # noqa: S704 - our own file
    return _environment().get_template(f"pages/templates/{template}").render(values | given) + "\n"


@cache
def _css() -> str:
    return (_FOLDER / "pages" / "templates" / "page.css").read_text("utf-8")


@cache
def _environment() -> Environment:
    # Not that of the messages, which writes the style of mail into every element.
    return prepared(FileSystemLoader(_FOLDER))
