"""No test knows what day it is: one whose data name days sets the clock of its database (docs/testing.md, W25)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.repository import ROOT, modules

#: Years that are or will be near while these tests are run. A day of 1999 is past for good, one of 2100 is to come.
YEARS = range(2021, 2100)
DAY = re.compile(r"(?<![\w.-])(20\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?!\d)")
#: Pure functions get the day as an argument, and these tests give them every day: no clock is read.
WITHOUT_CLOCK = ("tests/unit", "tests/architecture", "tests/golden")
#: Days to which others set a clock: that of tests which use this company, and the machine's in `make test-days`.
DAYS_TO_SET = ("tests/support/rows/reminded_company.py", "tests/support/time/days.py")

#: These write about them.
NAME_KEYWORDS = ("tests/support/time/clock.py", "tests/support/time/calendar_tests.py")
KEYWORDS = re.compile(r"(?i)\b(?:current_date|current_timestamp|localtimestamp|current_time|localtime)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def named_days(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions below `node` that name a day: `date(2026, 10, 1)`, `datetime(…)` or a text `2026-10-01`."""
    for each in ast.walk(node):
        match each:
            case ast.Call(func=ast.Name(id="date" | "datetime"), args=[ast.Constant(value=int(year)), *_]):
                if year in YEARS:
                    yield each
            case ast.Constant(value=str(text)):
                if any(int(found[1]) in YEARS for found in DAY.finditer(text)):
                    yield each


def sets_clock(node: ast.AST) -> bool:
    """Whether `node` (a test, a fixture, a module's mark) is marked with a clock or asks for one."""
    if isinstance(node, Function):
        arguments = [*node.args.args, *node.args.kwonlyargs]
        return any(each.arg == "clock" for each in arguments) or any(map(sets_clock, node.decorator_list))
    return any(ast.unparse(each) == "pytest.mark.clock" for each in ast.walk(node) if isinstance(each, ast.Attribute))


def has_mark(module: ast.Module) -> bool:
    return any(
        isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark" and sets_clock(each)
        for each in module.body
    )


def without_clock(source: str) -> Iterator[str]:
    """Yield a sentence for each day that a module of tests names outside of a test with a clock."""
    module = ast.parse(source)
    if has_mark(module):
        return
    for statement in module.body:
        # Documentation, and tests with a clock, name days freely.
        if isinstance(statement, ast.Expr) or (isinstance(statement, Function) and sets_clock(statement)):
            continue
        documented = {
            id(each.body[0].value)
            for each in ast.walk(statement)
            if isinstance(each, Function | ast.ClassDef) and isinstance(each.body[0], ast.Expr)
        }
        for day in named_days(statement):
            if id(day) not in documented:
                yield f"line {day.lineno}: {ast.unparse(day)[:60]}"


PATHS = [f"{path.relative_to(ROOT)}" for path in modules("tests")]


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith((*WITHOUT_CLOCK, *DAYS_TO_SET))])
def test_a_test_that_names_a_day_sets_the_clock_of_its_database(path: str) -> None:
    found = list(without_clock((ROOT / path).read_text()))
    assert found == [], (
        'mark the module or the test with pytest.mark.clock("YYYY-MM-DD HH:MM"), set its `clock`, '
        "or take the days from the database's now(): docs/testing.md"
    )


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith((*WITHOUT_CLOCK, *NAME_KEYWORDS))])
def test_a_test_asks_for_the_day_by_the_clock_that_can_be_set(path: str) -> None:
    """`CURRENT_DATE` and its kind are keywords: they stay the machine's while `now()` is set."""
    assert KEYWORDS.findall((ROOT / path).read_text()) == [], "write now()::date"


@pytest.mark.parametrize(
    "source",
    [
        "START = date(2026, 10, 1)",
        "def test_x(database): an_account(period_start=date(2026, 10, 1))",
        "def test_x(database): run('UPDATE x SET due_on = DATE \\'2026-10-01\\'')",
        "@pytest.mark.slow\ndef test_x(database): at(datetime(2031, 1, 1, tzinfo=UTC))",
    ],
)
def test_a_named_day_is_found(source: str) -> None:
    assert len(list(without_clock(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "pytestmark = [pytest.mark.slow, pytest.mark.clock('2026-11-22 12:00')]\nSTART = date(2026, 10, 1)",
        "@pytest.mark.clock('2026-11-22 12:00')\ndef test_x(database): at(date(2026, 10, 1))",
        "def test_x(clock, database): clock.set(datetime(2026, 10, 1, tzinfo=UTC))",
        "LONG_AGO = date(1999, 10, 1)\nNEVER = date(2100, 1, 1)",
        "NOTICE = 'CVE-2026-1', 'PYSEC-2026-12-31-x', 'sha-2026-10-01'",
        "def month(now):\n    'As of 2026-10-01.'\n    return date(now.year, 1, 1)",
    ],
)
def test_no_false_alarm(source: str) -> None:
    assert list(without_clock(source)) == []
