"""Which tests depend on the calendar: a plugin for pytest that deselects the others (`make test-days`).

A test is one of them if its clock is set, or if its module reads a calendar or makes data of some days or months ago.
No list has to be kept: a new test is recognised by what it uses.
"""

from __future__ import annotations

import inspect
import random
import re

import pytest

CALENDAR = re.compile(
    r"\b(?:last_month|an_account|customers)\(|\bcurrent_date\b|\bdate_trunc\b|AT TIME ZONE|\bdatetime\.now\(|"
    r"\binterval '\d+ (?:day|month|year)|timedelta\((?:days|weeks)="
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--calendar-tests", type=int, default=0, help="so many of them, drawn at random; 0: all")
    parser.addoption("--calendar-draw", default="0", help="the seed of the draw")


def depends_on_calendar(item: pytest.Item) -> bool:
    # Those with a timeout of their own run for minutes.
    if item.get_closest_marker("timeout"):
        return False
    if item.get_closest_marker("clock") or "clock" in getattr(item, "fixturenames", ()):
        return True
    module = item.getparent(pytest.Module)
    return module is not None and CALENDAR.search(inspect.getsource(module.obj)) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if depends_on_calendar(item)]
    count: int = config.getoption("--calendar-tests")
    if count and count < len(chosen):
        keys = set(random.Random(config.getoption("--calendar-draw")).sample([each.nodeid for each in chosen], count))
        chosen = [item for item in chosen if item.nodeid in keys]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen
