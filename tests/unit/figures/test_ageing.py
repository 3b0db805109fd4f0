"""How long what is open has been due: buckets by days, which add up (B2)."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_templates.figures.statement import Ageing, OpenItem, age

AS_OF = date(2026, 10, 31)

deterministic = settings(derandomize=True, database=None, deadline=None)


def an_item(due_on: date, open_amount: int) -> OpenItem:
    return OpenItem(date=date(2026, 1, 1), due_on=due_on, description="", amount=open_amount, open=open_amount)


amounts = st.integers(-(10**15), 10**15).filter(bool)
items = st.lists(st.builds(an_item, st.dates(date(1990, 1, 1), date(2060, 1, 1)), amounts), max_size=30)


@pytest.mark.parametrize(
    ("days", "bucket"),
    [
        (-400, "not_due"),
        (-1, "not_due"),
        (0, "not_due"),
        (1, "days_1_30"),
        (30, "days_1_30"),
        (31, "days_31_60"),
        (60, "days_31_60"),
        (61, "days_61_90"),
        (90, "days_61_90"),
        (91, "over_90"),
        (10_000, "over_90"),
    ],
)
def test_an_amount_stands_where_its_days_since_due_put_it(days: int, bucket: str) -> None:
    assert age([an_item(AS_OF - timedelta(days=days), 700)], AS_OF) == Ageing(**{bucket: 700})


def test_without_a_due_date_it_is_not_due() -> None:
    charge = OpenItem(date=AS_OF - timedelta(days=31), description="", amount=7, open=7)
    assert age([charge], AS_OF) == Ageing(not_due=7)


@deterministic
@given(items)
def test_the_buckets_add_up_to_the_balance_whatever_is_open(found: list[OpenItem]) -> None:
    aged = age(found, AS_OF)
    assert aged.total == sum(item.open for item in found)
    assert aged.unapplied_credit == -sum(item.open for item in found if item.open < 0)
    assert aged.overdue == sum(
        item.open for item in found if item.open > 0 and item.due_on is not None and item.due_on < AS_OF
    )


@deterministic
@given(items, st.randoms(use_true_random=False))
def test_the_order_of_what_is_open_does_not_matter(found: list[OpenItem], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert age(shuffled, AS_OF) == age(found, AS_OF)


@deterministic
@given(items, st.integers(0, 400))
def test_what_is_open_never_grows_younger(found: list[OpenItem], days: int) -> None:
    names = ("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90")

    def at_most(aged: Ageing) -> list[int]:
        values = msgspec.structs.asdict(aged)
        return [sum(values[name] for name in names[: end + 1]) for end in range(len(names))]

    now, later = age(found, AS_OF), age(found, AS_OF + timedelta(days=days))
    assert all(then <= before for before, then in zip(at_most(now), at_most(later), strict=True))
