"""Language, figures and dates of a reader (E7, P3.1b)."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from babel import Locale
from babel.core import get_global
from babel.numbers import get_currency_precision
from hypothesis import given
from hypothesis import strategies as st

from email_templates.language.currencies import minor_digits
from email_templates.language.reader import reader

NBSP, NNBSP, RLM, LRM, ALM = "\u00a0", "\u202f", "\u200f", "\u200e", "\u061c"


@pytest.mark.parametrize(
    ("tag", "language", "locale"),
    [
        ("en", "en", "en"),
        ("en-GB", "en", "en_GB"),
        ("de-AT", "de", "de_AT"),
        ("DE_at", "de", "de_AT"),
        ("de-Latn-CH-1996", "de", "de_CH"),
        ("de-XX", "de", "de"),
        ("fr-CA", "fr", "fr_CA"),
        ("ar-EG", "ar", "ar_EG"),
        ("pt_BR", "en", "en"),
        ("pt-US", "en", "en"),
        ("xx", "en", "en"),
        ("", "en", "en"),
        ("../../etc/passwd", "en", "en"),
        ("de\r\nBcc: x", "en", "en"),
    ],
)
def test_language_is_negotiated_and_figures_follow_it(tag: str, language: str, locale: str) -> None:
    who = reader(tag, "UTC")
    assert (who.language, str(who.locale)) == (language, locale)


@given(st.text(max_size=30))
def test_any_language_tag_has_a_reader(tag: str) -> None:
    assert reader(tag, "UTC").language in {"en", "de", "fr", "ar"}


@pytest.mark.parametrize(
    ("tag", "minor", "currency", "written"),
    [
        ("en", 123_450, "EUR", "€1,234.50"),
        ("en", -5, "USD", "-$0.05"),
        ("en", 12, "JPY", "¥12"),
        ("en", 1_234_567, "KWD", f"KWD{NBSP}1,234.567"),
        ("de", 123_450, "EUR", f"1.234,50{NBSP}€"),
        ("de-AT", 123_450, "EUR", f"€{NBSP}1.234,50"),
        ("fr", 123_456_700, "EUR", f"1{NNBSP}234{NNBSP}567,00{NBSP}€"),
        ("ar-EG", 123_450, "EUR", f"{RLM}١٬٢٣٤٫٥٠{NBSP}€"),
        ("ar-AE", 123_450, "EUR", f"{RLM}1,234.50{NBSP}€"),
        # A minus stands to the right of Arabic digits and to the left of European ones, by CLDR's marks.
        ("ar-EG", -123_450, "EUR", f"{RLM}{ALM}-١٬٢٣٤٫٥٠{NBSP}€"),
        ("ar-AE", -123_450, "EUR", f"{RLM}{LRM}-1,234.50{NBSP}€"),
        ("ar-MA", -123_450, "EUR", f"{RLM}{LRM}-1.234,50{NBSP}€"),
        ("en", 10**17 + 1, "EUR", "€1,000,000,000,000,000.01"),
        # CLDR writes no decimals for these; the ledger's minor unit is ISO's all the same.
        ("en", 12_345, "RSD", f"RSD{NBSP}123.45"),
        ("en", 12_345, "IQD", f"IQD{NBSP}12.345"),
    ],
)
def test_money(tag: str, minor: int, currency: str, written: str) -> None:
    assert reader(tag, "UTC").money(minor, currency) == written


@given(st.integers(-(10**18), 10**18), st.sampled_from(["EUR", "JPY", "KWD"]), st.sampled_from(["en", "de", "ar-EG"]))
def test_money_loses_nothing(minor: int, currency: str, tag: str) -> None:
    who = reader(tag, "UTC")
    for written in (who.money(minor, currency), who.figure(minor, currency)):
        digits = "".join(str(int(character)) for character in written if character.isdecimal())
        assert int(digits) == abs(minor)
        assert ("-" in written) == (minor < 0)


def test_where_the_minor_unit_is_not_what_cldr_writes() -> None:
    """Should Babel's data change, somebody looks at the table again."""
    current = [code for code in get_global("all_currencies") if code in Locale("en").currencies]
    differing = {code for code in current if minor_digits(code) != get_currency_precision(code)}
    assert {"AFN", "ALL", "IQD", "IRR", "KPW", "LAK", "LBP", "MGA", "MMK", "RSD", "SOS", "SYP", "YER"} <= differing
    assert not differing & {"EUR", "USD", "GBP", "JPY", "KWD", "CHF", "CLP", "KRW", "BHD", "TND", "ISK", "CLF", "UYW"}


@pytest.mark.parametrize("code", ["", "eur", "EURO", "€", "E\nR"])
def test_what_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="is not an ISO 4217 currency code"):
        reader("en", "UTC").money(1, code)


def test_dates() -> None:
    day = date(2026, 1, 31)
    assert reader("en", "UTC").date(day) == "January 31, 2026"
    assert reader("en-GB", "UTC").date(day) == "31 January 2026"
    assert reader("de-AT", "UTC").date(day) == "31. Jänner 2026"
    assert reader("fr", "UTC").date(day) == "31 janvier 2026"
    assert reader("ar-EG", "UTC").date(day) == "٣١ يناير ٢٠٢٦"
    assert reader("de", "UTC").period(date(2026, 1, 1), day) == "1.–31. Jan. 2026"
    assert reader("de", "UTC").period(day, day) == "31. Jan. 2026"


def test_an_instant_in_the_readers_own_zone_on_both_sides_of_a_clock_change() -> None:
    who = reader("de", "Europe/Vienna")
    assert who.datetime(datetime(2026, 10, 25, 0, 30, tzinfo=UTC)) == "25. Oktober 2026, 02:30 MESZ"
    assert who.datetime(datetime(2026, 10, 25, 1, 30, tzinfo=UTC)) == "25. Oktober 2026, 02:30 MEZ"
    assert reader("en", "Asia/Kathmandu").datetime(datetime(2026, 1, 1, tzinfo=UTC)) == (
        f"January 1, 2026, 5:45{NNBSP}AM UTC+05:45"
    )


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        reader("en", "UTC").datetime(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_time_zone_is_an_error_in_a_sentence(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone that this machine knows"):
        reader("en", zone)


def test_numbers_and_shares() -> None:
    assert reader("de", "UTC").number(1234567.5) == "1.234.567,5"
    assert reader("ar-EG", "UTC").number(12) == "١٢"
    assert reader("en", "UTC").percent(0.195) == "19.5%"
    assert reader("de", "UTC").percent(0.195) == f"19,5{NBSP}%"
