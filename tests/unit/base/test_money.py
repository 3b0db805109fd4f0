"""Money: whole minor units of a currency that exists, and shares that lose nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from babel.core import get_global
from hypothesis import given
from hypothesis import strategies as st

from email_templates.language.currencies import minor_digits
from models.base.money import CURRENCIES, Money, MoneyError
from models.base.tax import included


def test_the_currencies_are_those_in_use_and_some_that_were() -> None:
    in_use = {
        code
        for currencies in get_global("territory_currencies").values()
        for code, _start, end, tender in currencies
        if end is None and tender
    }
    assert in_use - CURRENCIES.keys() <= {"CNH"}
    # Funds codes, two that the list of countries has under another name, and those withdrawn since 2015.
    others = "ANG BOV CHE CHW CLF COU CUC HRK MRO MXV SLL STD SVC USN UYI UYW VED VEF ZWL"
    assert " ".join(sorted(CURRENCIES.keys() - in_use)) == others
    assert {code: minor_digits(code) for code in CURRENCIES} == dict(CURRENCIES)


@pytest.mark.parametrize("amount", [1.0, 10.5, "10", Decimal(10), None, True])
def test_an_amount_is_a_whole_number(amount: Any) -> None:
    with pytest.raises(MoneyError, match="whole number of minor units"):
        Money(amount, "EUR")


@pytest.mark.parametrize("currency", ["EU", "eur", "ABC", "XXX", ""])
def test_a_currency_exists(currency: str) -> None:
    with pytest.raises(MoneyError, match="is not a currency of ISO 4217"):
        Money(1, currency)


def test_currencies_are_never_mixed() -> None:
    euro, yen = Money(1, "EUR"), Money(1, "JPY")
    for mixed in (lambda: euro + yen, lambda: euro - yen, lambda: euro < yen, lambda: euro <= yen):
        with pytest.raises(MoneyError, match="never added or compared"):
            mixed()
    assert euro != yen


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.sampled_from(["EUR", "JPY", "KWD", "CLF"]))
def test_what_is_written_is_read_again(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    assert Money.parse(str(money).removesuffix(f" {currency}").replace(",", ""), currency) == money


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("1,5", "EUR"), ("1.005", "EUR"), ("1.0", "JPY"), ("1e3", "EUR"), ("", "EUR"), ("١", "EUR")],
)
def test_what_a_person_types_is_never_rounded(amount: str, currency: str) -> None:
    with pytest.raises(MoneyError):
        Money.parse(amount, currency)


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**12), min_size=1, max_size=20).filter(any))
def test_shares_make_the_whole_and_each_is_within_a_unit_of_its_due(minor: int, weights: list[int]) -> None:
    shares = [share.minor for share in Money(minor, "EUR").split(weights)]
    assert sum(shares) == minor
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share * sum(weights) - minor * weight) < sum(weights)


@given(st.integers(0, 10**12), st.integers(0, 10_000))
def test_the_tax_in_an_amount_is_rounded_half_up(gross: int, rate: int) -> None:
    exact = Decimal(gross) * rate / (10_000 + rate)
    tax = included(gross, rate)
    assert abs(tax - exact) <= Decimal("0.5")
    assert 0 <= tax <= gross
