"""Billing days, as a bookkeeper counts them: the same rule as `tenure.period_end`, written a second time.

The checks compare what the database planned with what this says, so neither is made from the other.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date, timedelta


def billing_date(year: int, month: int, billing_day: int) -> date:
    """The day of that month on which a period begins; 29 to 31 mean the last day of shorter months."""
    return date(year, month, min(billing_day, monthrange(year, month)[1]))


def billing_dates(billing_day: int, last: date, count: int) -> list[date]:
    """The last `count` days on which a period begins that are not after `last`, oldest first."""
    found: list[date] = []
    year, month = last.year, last.month
    while len(found) < count:
        day = billing_date(year, month, billing_day)
        if day <= last:
            found.append(day)
        year, month = (year - 1, 12) if month == 1 else (year, month - 1)
    return found[::-1]


def settled(billing_day: int, today: date) -> bool:
    """Whether no period of that billing day ends within a day of `today`, anywhere on earth.

    A company whose periods are all settled is the same at every hour of a day.
    """
    near = [today + timedelta(days=days) for days in (-1, 0, 1)]
    return all(billing_date(day.year, day.month, billing_day) != day for day in near)
