"""How long what is unpaid has been due: buckets by days, which add up (B2)."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_templates.documents.statement import Ageing
from tasks.statements import age

AS_OF = date(2026, 10, 31)

deterministic = settings(derandomize=True, database=None, deadline=None)

items = st.lists(st.tuples(st.dates(date(1990, 1, 1), date(2060, 1, 1)), st.integers(1, 10**15)), max_size=30)


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
    found = age(700, [(AS_OF - timedelta(days=days), 700)], AS_OF)
    assert found == Ageing(**{bucket: 700})


@deterministic
@given(items)
def test_the_buckets_add_up_to_the_balance_whatever_is_open(open_items: list[tuple[date, int]]) -> None:
    closing = sum(amount for _, amount in open_items)
    found = age(closing, open_items, AS_OF)
    assert found.total == closing
    assert found.unapplied_credit == 0
    overdue = sum(amount for due_on, amount in open_items if due_on < AS_OF)
    assert found.overdue == overdue
    assert found.not_due == closing - overdue


@deterministic
@given(items, st.randoms(use_true_random=False))
def test_the_order_of_what_is_open_does_not_matter(open_items: list[tuple[date, int]], random: object) -> None:
    closing = sum(amount for _, amount in open_items)
    shuffled = list(open_items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert age(closing, shuffled, AS_OF) == age(closing, open_items, AS_OF)


@deterministic
@given(st.integers(-(10**15), 0))
def test_a_balance_in_the_customers_favour_is_unapplied_credit_and_nothing_else(closing: int) -> None:
    found = age(closing, [], AS_OF)
    assert found == Ageing(unapplied_credit=-closing)
    assert found.total == closing


@deterministic
@given(items, st.integers(0, 400))
def test_what_is_open_never_grows_younger(open_items: list[tuple[date, int]], days: int) -> None:
    closing = sum(amount for _, amount in open_items)
    names = ("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90")

    def at_most(found: Ageing) -> list[int]:
        values = msgspec.structs.asdict(found)
        return [sum(values[name] for name in names[: end + 1]) for end in range(len(names))]

    now, later = age(closing, open_items, AS_OF), age(closing, open_items, AS_OF + timedelta(days=days))
    assert all(then <= before for before, then in zip(at_most(now), at_most(later), strict=True))
