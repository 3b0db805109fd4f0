"""A message in a reader's language: subject, text and HTML, from the templates of its folder (E1, E3, E7).

One Jinja environment is kept for the process. Whatever others wrote is cleaned before any template sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from jinja2 import BaseLoader, Environment, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context

from email_templates.catalogue.accounts import Detail
from email_templates.catalogue.message import Message
from email_templates.catalogue.payments import Allocation, Method
from email_templates.catalogue.reminders import OpenInvoice
from email_templates.figures.ageing import ageing_rows
from email_templates.figures.statement import Ageing
from email_templates.language import plain_text
from email_templates.language.company import Company
from email_templates.language.reader import Reader, reader
from email_templates.mail import words
from email_templates.mail.inlining import InlinedTemplates

_FOLDER: Final = Path(__file__).parents[1]
_STYLE_SHEET: Final = "mail/layout/mail.css"
#: Well below the 998 octets of a header line, and more than any client shows.
SUBJECT_LENGTH: Final = 150
#: Who signs up with an advertisement for a name gets no room for it.
NAME_LENGTH: Final = 80
#: Characters of a name in mail to an address that nobody has confirmed.
UNCONFIRMED_LENGTH: Final = 40
#: What every template is given beside the context's own fields.
GIVEN: Final = frozenset({"reader", "company", "recipient_name", "third_party_hosts", "optional", "subject"})
_EMPTY_LINES: Final = re.compile(r"\n\s*\n")


class Rendered(msgspec.Struct, frozen=True):
    """A message ready for a MIME tree. `subject` is one line without control characters; `text` ends in a newline."""

    subject: str
    text: str
    html: str


def render(context: Message, *, language: str, time_zone: str, company: Company, recipient_name: str) -> Rendered:
    """The message in the reader's language, and in English where we do not write theirs.

    Raises jinja2.UndefinedError for a variable that nobody defined, and ValueError for an unknown time zone; a part of
    a message is never returned.
    """
    who = reader(language, time_zone)
    cleaned = plain_text.clean(context)
    name = plain_text.cut(plain_text.one_line(recipient_name), NAME_LENGTH)
    if context.unconfirmed:
        cleaned = plain_text.each_text(cleaned, lambda text: plain_text.without_links(text, UNCONFIRMED_LENGTH))
        name = plain_text.without_links(name, UNCONFIRMED_LENGTH)
    values: dict[str, Any] = {field: getattr(cleaned, field) for field in cleaned.__struct_fields__}
    values |= {
        "reader": who,
        "company": plain_text.clean(company),
        "recipient_name": name,
        "optional": context.optional,
        "third_party_hosts": plain_text.hosts_named((name, *plain_text.texts_of(cleaned)), company.website),
    }
    # The isolates in it are ours: values were cleaned of theirs.
    subject = plain_text.unbroken(_render(f"messages/{context.name}/subject.txt", values))
    subject = plain_text.cut(subject, SUBJECT_LENGTH)
    values["subject"] = subject
    text = plain_text.wrapped(_render(f"messages/{context.name}/body.txt", values))
    html = _EMPTY_LINES.sub("\n", _render(f"messages/{context.name}/body.html", values)).strip() + "\n"
    return Rendered(subject, text, html)


def _render(template: str, values: dict[str, Any]) -> str:
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """The templates with our filters; made at first use, because it reads and inlines the style sheet."""
    return prepared(InlinedTemplates(_FOLDER, _STYLE_SHEET))


def prepared(loader: BaseLoader) -> Environment:
    """Templates from anywhere, strict and escaping, with our filters and the reader's language."""
    made = Environment(
        loader=loader,
        undefined=StrictUndefined,
        autoescape=select_autoescape(enabled_extensions=("html",), disabled_extensions=("txt",), default=True),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        extensions=["jinja2.ext.i18n"],
    )
    made.policies["ext.i18n.trimmed"] = True
    made.install_gettext_callables(_gettext, _ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.filters |= _FILTERS
    return made


def _who(context: Context) -> Reader:
    return cast(Reader, context["reader"])


@pass_context
def _gettext(context: Context, message: str) -> str:
    return _who(context).gettext(message)


@pass_context
def _ngettext(context: Context, singular: str, plural: str, n: int) -> str:
    return _who(context).ngettext(singular, plural, n)


@pass_context
def _money(context: Context, minor: int, currency: str) -> str:
    return _who(context).money(minor, currency)


@pass_context
def _currency_name(context: Context, currency: str) -> str:
    return _who(context).currency_name(currency)


@pass_context
def _date(context: Context, day: date) -> str:
    return _who(context).date(day)


@pass_context
def _period(context: Context, first: date, last: date) -> str:
    return _who(context).period(first, last)


@pass_context
def _datetime(context: Context, instant: datetime) -> str:
    return _who(context).datetime(instant)


@pass_context
def _number(context: Context, value: float | Decimal) -> str:
    return _who(context).number(value)


@pass_context
def _percent(context: Context, value: float | Decimal) -> str:
    return _who(context).percent(value)


@pass_context
def _size(context: Context, octets: int) -> str:
    return _who(context).size(octets)


@pass_context
def _method_name(context: Context, method: Method, digits: str) -> str:
    return words.payment_method(_who(context), method, digits)


@pass_context
def _detail_name(context: Context, named: Detail) -> str:
    return words.detail(_who(context), named)


@pass_context
def _open_invoices(
    context: Context, invoices: Sequence[OpenInvoice], currency: str, as_of: date | None = None
) -> list[tuple[str, ...]]:
    return words.open_invoices(_who(context), invoices, currency, as_of)


@pass_context
def _allocations(context: Context, settled: Sequence[Allocation], currency: str) -> list[tuple[str, ...]]:
    return words.allocations(_who(context), settled, currency)


@pass_context
def _quoted(context: Context, text: str) -> str:
    return plain_text.quoted(text, _who(context).direction)


@pass_context
def _ageing_rows(context: Context, ageing: Ageing, currency: str) -> list[tuple[str, str]]:
    return ageing_rows(_who(context), ageing, currency)


@pass_context
def _listed(context: Context, rows: Sequence[tuple[str, str]]) -> str:
    """Labels and words, a pair a line."""
    pair = _who(context).gettext("%(label)s: %(value)s")
    return "\n".join("  " + pair % {"label": label, "value": value} for label, value in rows)


_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "money": _money,
    "currency_name": _currency_name,
    "date": _date,
    "period": _period,
    "datetime": _datetime,
    "number": _number,
    "percent": _percent,
    "size": _size,
    "method_name": _method_name,
    "detail_name": _detail_name,
    "open_invoices": _open_invoices,
    "allocations": _allocations,
    "quoted": _quoted,
    "cut": plain_text.cut,
    "ageing_rows": _ageing_rows,
    "aligned": plain_text.aligned,
    "listed": _listed,
}
