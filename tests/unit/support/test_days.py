"""`make test-days`: which tests it leaves, and that another day is another day (tests/support/time/days.py, W26)."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.time import days
from tests.support.time.calendar_tests import CALENDAR
from tests.support.time.deadlines import deadline


@pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is preloaded on Linux alone")
def test_a_process_on_another_day_sleeps_and_waits_as_ever() -> None:
    ahead = timedelta(days=365)
    program = "import datetime, time; time.sleep(0.1); print(datetime.datetime.now(datetime.timezone.utc).isoformat())"
    with days.faketime() as library:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=days.environment(library, ahead),
            capture_output=True,
            text=True,
            timeout=deadline(60),
            check=True,
        )
    found = datetime.fromisoformat(done.stdout.strip())
    assert (
        datetime.now(UTC) - timedelta(seconds=deadline(60)) <= found - ahead <= datetime.now(UTC) + timedelta(seconds=1)
    )


def test_a_seed_draws_the_same_offsets_and_another_draws_others() -> None:
    first, again, other = days.drawn(1, 5), days.drawn(1, 5), days.drawn(2, 5)
    assert list(first) == [f"drawn-{number}" for number in range(1, 6)]
    assert all(abs(first[name] - again[name]) < timedelta(minutes=5) for name in first)
    assert all(abs(first[name] - other[name]) > timedelta(minutes=5) for name in first)


@pytest.mark.parametrize(
    "source",
    [
        "account = an_account(session)",
        "UPDATE x SET due = now() - interval '2 years'",
        "SELECT date_trunc('month', now())",
        "datetime.now(UTC)",
        "clock.advance(timedelta(days=7))",
    ],
)
def test_what_depends_on_the_calendar_is_recognised(source: str) -> None:
    assert CALENDAR.search(source)


@pytest.mark.parametrize("source", ["timedelta(seconds=3)", "interval '1 second'", "due_at = now()"])
def test_what_does_not_is_left_out(source: str) -> None:
    assert not CALENDAR.search(source)
