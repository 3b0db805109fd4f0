"""The person who reads: their language, the figures and dates of their place, their time zone (P3.1b, E7).

PDF, HTML and text all ask the same `Reader` for an amount, so they cannot disagree (B6).
"""

from __future__ import annotations

import datetime as dt
import gettext
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_time, get_datetime_format, get_time_format

from email_templates.language import figures
from email_templates.language.translations import SOURCE, languages, translations

_SUBTAGS: Final = re.compile(r"[-_]")
_TERRITORY: Final = re.compile(r"[A-Za-z]{2}|[0-9]{3}", re.ASCII)
#: How Babel writes a zone that has no short name in a language.
_BARE_OFFSET: Final = re.compile(r"([+-]\d\d)(\d\d)$")
_SECONDS: Final = re.compile(r"[:.]ss")


@dataclass(frozen=True)
class Reader:
    """For whom a message is written."""

    #: The language that we write in: one of `translations.languages()`.
    language: str
    locale: Locale
    zone: dt.tzinfo

    @cached_property
    def tag(self) -> str:
        """For `lang`: `de-AT`."""
        return str(self.locale).replace("_", "-")

    @cached_property
    def direction(self) -> str:
        return self.locale.text_direction

    @property
    def start(self) -> str:
        """The side where a line begins, for HTML's `align`, which knows no `start`."""
        return "right" if self.direction == "rtl" else "left"

    @property
    def digits(self) -> str:
        """The ten digits of the locale, zero first."""
        return figures.digits_of(self.locale)

    @cached_property
    def _translations(self) -> gettext.NullTranslations:
        return translations(self.language)

    def gettext(self, message: str) -> str:
        return self._translations.gettext(message)

    def ngettext(self, singular: str, plural: str, n: int) -> str:
        return self._translations.ngettext(singular, plural, n)

    def money(self, minor: int, currency: str) -> str:
        """An amount of minor units with its currency: 123450, EUR is `€1,234.50`."""
        return figures.money(self.locale, minor, currency)

    def figure(self, minor: int, currency: str) -> str:
        """The same without the currency, for a column whose head names it."""
        return figures.figure(self.locale, minor, currency)

    def currency_name(self, currency: str) -> str:
        return figures.currency_name(self.locale, currency)

    def number(self, value: float | Decimal) -> str:
        return figures.number(self.locale, value)

    def percent(self, value: float | Decimal) -> str:
        """A share of 1: 0.195 is `19.5%`."""
        return figures.percent(self.locale, value)

    def size(self, octets: int) -> str:
        """An amount of data, in decimal units: 2483000000 is `2.5 GB`."""
        return figures.size(self.locale, octets)

    def date(self, day: dt.date) -> str:
        return figures.day(self.locale, day, "long")

    def short_date(self, day: dt.date) -> str:
        """For a narrow column; the year always has four digits."""
        return figures.day(self.locale, day, "medium")

    def period(self, first: dt.date, last: dt.date) -> str:
        """From the first to the last day, inclusive."""
        return figures.period(self.locale, first, last)

    def datetime(self, instant: dt.datetime) -> str:
        """An instant in the reader's zone, to the minute, with the zone's name; ValueError if it has no zone."""
        if instant.tzinfo is None:
            raise ValueError(f"The instant {instant.isoformat()} has no time zone; give one in UTC.")
        local = instant.astimezone(self.zone)
        pattern = _SECONDS.sub("", get_time_format("long", self.locale).pattern)
        time = format_time(local, pattern, tzinfo=self.zone, locale=self.locale)
        joined = str(get_datetime_format("long", locale=self.locale)).replace("'", "")
        written = joined.replace("{1}", self.date(local.date())).replace("{0}", time)
        offset = _BARE_OFFSET.search(written)
        if offset:
            # In ASCII digits everywhere, so that it stays one left-to-right word.
            return f"{figures.own_digits(written[: offset.start()], self.locale)}UTC{offset[1]}:{offset[2]}"
        return figures.own_digits(written, self.locale)


@lru_cache(maxsize=1024)
def reader(language: str, time_zone: str) -> Reader:
    """The reader of a contact's BCP 47 tag and IANA zone.

    A language that we do not write falls back to English, figures and dates with it; a zone that does not exist is a
    ValueError, because a wrong hour is worse than none.
    """
    written, locale = _negotiate(language)
    try:
        zone = ZoneInfo(time_zone)
    except (LookupError, OSError, ValueError) as error:
        raise ValueError(
            f"{time_zone!r} is not a time zone that this machine knows; use an IANA name such as 'Europe/Vienna'."
        ) from error
    return Reader(written, locale, zone)


def _negotiate(tag: str) -> tuple[str, Locale]:
    first, *others = _SUBTAGS.split(tag.strip())
    language = first.lower()
    if language not in languages():
        # Figures of the reader's own place would stand in a text of another language.
        return SOURCE, Locale(SOURCE)
    territory = next((part.upper() for part in others if _TERRITORY.fullmatch(part)), None)
    try:
        return language, Locale(language, territory=territory)
    except UnknownLocaleError:
        return language, Locale(language)
