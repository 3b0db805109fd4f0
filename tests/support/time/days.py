"""Run the tests that depend on the calendar on other days (`make test-days`; docs/testing.md).

    python -m tests.support.time.days                          # every day of DAYS
    python -m tests.support.time.days leap-day first-of-month  # these
    python -m tests.support.time.days --seed 7 --count 5       # five days drawn at random, printed
    python -m tests.support.time.days --tests 40               # so many tests of each day, others on each

libfaketime is preloaded into Python, PostgreSQL, Valkey and every process of Tenure. All of them are ahead of the
machine by the same number of seconds. Clocks that only count (monotonic ones) stay the machine's, and so does the clock
of the object store, a static program: the S3 adapter corrects that skew by itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.time.deadlines import deadline
from workers.local.stack import FAKE_CLOCK

#: In UTC. Where a clock is put forward or back, or a day ends, the tests begin half a minute before.
DAYS: Mapping[str, datetime] = {
    "last-of-month": datetime(2027, 4, 30, 12, tzinfo=UTC),
    "first-of-month": datetime(2027, 5, 1, 9, tzinfo=UTC),
    "leap-day": datetime(2028, 2, 29, 12, tzinfo=UTC),
    "last-of-year": datetime(2027, 12, 31, 23, 59, 30, tzinfo=UTC),
    "first-of-year": datetime(2028, 1, 1, 10, tzinfo=UTC),
    "europe-spring": datetime(2027, 3, 28, 0, 59, 30, tzinfo=UTC),
    "europe-autumn": datetime(2027, 10, 31, 0, 59, 30, tzinfo=UTC),
    "america-spring": datetime(2027, 3, 14, 6, 59, 30, tzinfo=UTC),
    "america-autumn": datetime(2027, 11, 7, 5, 59, 30, tzinfo=UTC),
    "before-midnight": datetime(2027, 6, 15, 23, tzinfo=UTC),
    "after-midnight": datetime(2027, 6, 16, 1, tzinfo=UTC),
    "two-years-on": datetime.now(UTC).replace(microsecond=0) + timedelta(days=731),
}
#: Not the faults, which take minutes each, nor the architecture, which has no clock.
FOLDERS = ("tests/unit", "tests/integration", "tests/acceptance")
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-n",
    "0",
    "-p",
    "no:cacheprovider",
    "-p",
    "tests.support.time.calendar_tests",
    *FOLDERS,
)
#: Days are drawn from so many years ahead.
HORIZON = timedelta(days=4 * 366)
#: Where the wheel `libfaketime` and Debian's package have it.
_DEBIAN = "/usr/lib/*/faketime/libfaketime.so.1"
#: What a library must be able to do: Debian 12's cannot sleep while monotonic clocks are left alone.
_PROBE = """
import datetime, threading, time
begun = time.monotonic()
time.sleep(0.01)
threading.Event().wait(0.01)
print(datetime.datetime.now(datetime.timezone.utc).year, time.monotonic() - begun < 60)
"""


def candidates() -> Iterator[Path]:
    if wheel := importlib.util.find_spec("libfaketime"):
        for folder in wheel.submodule_search_locations or ():
            yield from Path(folder).glob("vendor/libfaketime/src/libfaketime.so.1")
    yield from Path("/").glob(_DEBIAN.lstrip("/"))


def environment(library: Path, ahead: timedelta) -> dict[str, str]:
    """Return what `library` reads so that a process is `ahead` of the machine's clock."""
    values = (str(library), f"{ahead.total_seconds():+.0f}", "1", "1")
    return dict(os.environ) | dict(zip(FAKE_CLOCK, values, strict=True))


def works(library: Path) -> bool:
    expected = datetime.now(UTC) + timedelta(days=800)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment(library, timedelta(days=800)),
            capture_output=True,
            text=True,
            timeout=deadline(60),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.split() == [str(expected.year), "True"]


@contextmanager
def faketime() -> Iterator[Path]:
    """Yield a libfaketime that works, where PostgreSQL's user may read it. SystemExit says what to install."""
    found = next(filter(works, candidates()), None)
    if found is None:
        sys.exit(
            "No libfaketime was found that works with this Python. Install the wheel, .venv/bin/uv pip install "
            "libfaketime, or on Debian 13 or later the package faketime."
        )
    with tempfile.TemporaryDirectory(prefix="tenure-days-") as folder:
        Path(folder).chmod(0o755)
        library = Path(shutil.copy(found, folder))
        library.chmod(0o755)
        yield library


def drawn(seed: int, count: int) -> dict[str, datetime]:
    chosen = random.Random(seed)
    now = datetime.now(UTC).replace(microsecond=0)
    moments = [now + HORIZON * chosen.random() for _ in range(count)]
    return {f"drawn-{number}": moment.replace(microsecond=0) for number, moment in enumerate(moments, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-days", description="Run calendar-dependent tests on other days.")
    parser.add_argument("days", nargs="*", metavar="DAY", help=f"all, or some of {', '.join(DAYS)}")
    parser.add_argument("--seed", type=int, help="draw the days at random")
    parser.add_argument("--count", type=int, default=5, help="how many days to draw (5)")
    parser.add_argument("--tests", type=int, default=0, help="how many tests to draw for each day (all)")
    chosen = parser.parse_args()
    if unknown := set(chosen.days) - set(DAYS):
        parser.error(f"no such day: {', '.join(sorted(unknown))}; there are {', '.join(DAYS)}")
    days = {name: DAYS[name] for name in chosen.days or DAYS}
    if chosen.seed is not None:
        days = drawn(chosen.seed, chosen.count)
    results = []
    with faketime() as library:
        for number, (name, moment) in enumerate(days.items()):
            sys.stdout.write(f"{name}: {moment:%A, %Y-%m-%d %H:%M:%S} UTC\n")
            sys.stdout.flush()
            begun = time.monotonic()
            options = [f"--calendar-tests={chosen.tests}", f"--calendar-draw={chosen.seed or 0}-{number}"]
            ended = subprocess.run(
                [*PYTEST, *options], env=environment(library, moment - datetime.now(UTC)), check=False
            )
            results.append(ended.returncode)
            verdict = "green" if ended.returncode == 0 else "FAILED"
            sys.stdout.write(f"{name}: {moment:%Y-%m-%d %H:%M} UTC, {verdict}, {time.monotonic() - begun:.0f} s\n\n")
    return int(any(results))


if __name__ == "__main__":
    sys.exit(main())
