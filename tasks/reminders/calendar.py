"""Business days and hours of a customer, by its own country and clock (B15). Nothing here reads a clock itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
#: `date.weekday` of Saturday and Sunday, for customers whose country is not known.
WEEKEND = frozenset({5, 6})


class Calendar:
    """The business days of a country (ISO 3166-1 alpha-2); of an unknown one, Monday to Friday.

    Holidays are those of the whole country: which part of it a customer lives in, nobody told us.
    """

    def __init__(self, country: str | None) -> None:
        self._holidays, self._weekend = _country(country)

    def closed(self, day: date) -> str | None:
        """Why nobody is at work on that day, as words that follow "it is"; None on a business day."""
        if name := self._holidays.get(day):
            return f"a holiday ({name})"
        if day.weekday() in self._weekend:
            return f"a {day:%A}"
        return None

    def business_day(self, day: date) -> date:
        """`day` itself, or the next business day after it."""
        while self.closed(day):
            day += _DAY
        return day

    def next_business_day(self, day: date) -> date:
        return self.business_day(day + _DAY)


@lru_cache(maxsize=512)
def calendar(country: str | None) -> Calendar:
    """The calendar of a country, made once in a process."""
    return Calendar(country)


def _country(country: str | None) -> tuple[Mapping[date, str], frozenset[int]]:
    # Imported here: planning alone needs it, and no command but its own should pay for it.
    import holidays  # noqa: PLC0415

    if country is None:
        return {}, WEEKEND
    try:
        known = holidays.country_holidays(country.upper(), language="en_US")
    except NotImplementedError:
        return {}, WEEKEND
    return known, frozenset(known.weekend)


def is_open(moment: datetime, zone: tzinfo, opens_at: time, closes_at: time) -> bool:
    """Whether the clock on the wall is between the two; in an hour that comes twice it is so twice."""
    return opens_at <= moment.astimezone(zone).time() < closes_at


def opening(day: date, zone: tzinfo, opens_at: time, closes_at: time) -> datetime | None:
    """The first instant of `day` at which it is open there; None where the clock jumps over all of it."""
    wall = datetime.combine(day, opens_at)
    found = wall.replace(tzinfo=zone).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None) != wall:
        # The clock jumps over that time: what comes first after the jump.
        while (found - _MINUTE).astimezone(zone).replace(tzinfo=None) >= wall:
            found -= _MINUTE
    there = found.astimezone(zone)
    return found if there.date() == day and opens_at <= there.time() < closes_at else None
