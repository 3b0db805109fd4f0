"""Amounts, numbers and days as a locale writes them (CLDR, E7).

Results are kept: a message says each amount at least twice, and a thousand statements have the same dates.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from typing import Final, Literal

from babel import Locale
from babel.dates import format_date, format_interval
from babel.numbers import (
    NumberPattern,
    format_decimal,
    format_percent,
    get_currency_name,
    get_currency_symbol,
    parse_pattern,
)
from babel.units import format_unit

from email_templates.language.currencies import minor_digits

#: The last digit before the point, and what comes after it, in a number pattern such as `#,##0.00 ¤`.
_DECIMALS: Final = re.compile(r"0(\.[0#]+)?(?![0#,])")
_ASCII_DIGITS: Final = "0123456789"
#: Babel takes a locale's own separators, but writes ASCII digits between them, and in dates.
_DIGITS: Final = {"arab": "٠١٢٣٤٥٦٧٨٩", "arabext": "۰۱۲۳۴۵۶۷۸۹"}


@cache
def digits_of(locale: Locale) -> str:
    """The ten digits of the locale, zero first."""
    return _DIGITS.get(locale.default_numbering_system, _ASCII_DIGITS)


def own_digits(text: str, locale: Locale) -> str:
    """The text with its ASCII digits written as the locale's."""
    digits = digits_of(locale)
    return text if digits == _ASCII_DIGITS else text.translate(str.maketrans(_ASCII_DIGITS, digits))


@lru_cache(maxsize=4096)
def money(locale: Locale, minor: int, currency: str) -> str:
    """An amount of minor units with its currency: 123450, EUR is `€1,234.50`."""
    return _exactly(locale, minor, currency, _money_pattern(locale, currency))


def figure(locale: Locale, minor: int, currency: str) -> str:
    """An amount of minor units without its currency: 123450, EUR is `1,234.50`."""
    return _exactly(locale, minor, currency, locale.decimal_formats[None].pattern)


@cache
def currency_name(locale: Locale, currency: str) -> str:
    minor_digits(currency)
    return get_currency_name(currency, locale=locale)


@lru_cache(maxsize=1024)
def number(locale: Locale, value: float | Decimal) -> str:
    return own_digits(format_decimal(value, locale=locale, numbering_system="default"), locale)


def percent(locale: Locale, value: float | Decimal) -> str:
    """A share of 1: 0.195 is `19.5%`."""
    return own_digits(
        format_percent(value, locale=locale, decimal_quantization=False, numbering_system="default"), locale
    )


def size(locale: Locale, octets: int) -> str:
    """An amount of data, in decimal units (SI): 2483000000 is `2.5 GB`."""
    unit, value = "byte", Decimal(octets)
    for larger in ("kilobyte", "megabyte", "gigabyte", "terabyte"):
        if value < 1000:
            break
        unit, value = larger, value / 1000
    rounded = value.quantize(Decimal(1) if value >= 100 or unit == "byte" else Decimal("0.1"))
    written = format_unit(
        rounded, f"digital-{unit}", "long" if unit == "byte" else "short", locale=locale, numbering_system="default"
    )
    return own_digits(written, locale)


@lru_cache(maxsize=1024)
def day(locale: Locale, on: date, length: Literal["medium", "long"]) -> str:
    return own_digits(format_date(on, length, locale), locale)


@lru_cache(maxsize=1024)
def period(locale: Locale, first: date, last: date) -> str:
    """From the first to the last day, inclusive."""
    return own_digits(str(format_interval(first, last, "yMMMd", locale=locale)), locale)


def _exactly(locale: Locale, minor: int, currency: str, pattern: str) -> str:
    # To the last minor unit, whatever number of decimals CLDR thinks usual for the currency.
    decimals = minor_digits(currency)
    written = _with_decimals(pattern, decimals).apply(
        Decimal(minor).scaleb(-decimals),
        locale,
        currency=currency,
        currency_digits=False,
        numbering_system="default",
    )
    if minor < 0:
        written = written.replace("-", _minus(locale), 1)
    return own_digits(written, locale)


@cache
def _minus(locale: Locale) -> str:
    """CLDR's minus sign, which Babel leaves out: in Arabic it has with it the mark that keeps it at its side.

    Before Arabic digits that is the right side, before European ones the left.
    """
    symbols = locale.number_symbols
    return str(symbols.get(locale.default_numbering_system, symbols["latn"])["minusSign"])


@cache
def _money_pattern(locale: Locale, currency: str) -> str:
    pattern: str = locale.currency_formats["standard"].pattern
    # CLDR's currency spacing, which Babel leaves out: a symbol that ends in a letter stands off its figure.
    if get_currency_symbol(currency, locale=locale)[-1:].isalpha():
        pattern = pattern.replace("¤#", "¤\xa0#")
    return pattern


@cache
def _with_decimals(pattern: str, decimals: int) -> NumberPattern:
    return parse_pattern(_DECIMALS.sub("0" + "." * bool(decimals) + "0" * decimals, pattern))
