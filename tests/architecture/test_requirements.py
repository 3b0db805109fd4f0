"""Every number that is cited has a line in docs/requirements.md, and a test cites every line (W32).

A citation is a letter with a number, alone or in a range. A P with a whole number is a row of the benchmark in
`benchmarks/`, in the tests of the benchmark, and behind the word "row"; elsewhere it is a section of the policy. The
third number of sessions is also the name of the object store's protocol, so it counts in brackets only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, files

PAGE = ROOT / "docs" / "requirements.md"
READ = {".py", ".sql", ".md", ".txt", ".html", ".yml"}
ROWS, PLANNED = "Benchmark rows", "Planned"
#: Files in which a P with a whole number is a row of the benchmark.
OF_THE_BENCHMARK = ("benchmarks/", "tests/integration/benchmarks/test_benchmarks.py")
#: Numbers that tests hand in because they do not exist.
NOT_CITED = {
    "tests/integration/benchmarks/test_benchmarks.py": {"P0", "P99"},
    "tests/unit/data_map/test_file.py": {"P2.1d"},
}

_NUMBER = r"[PWBEST][1-9]?\d(?:\.\d[a-z]?)?"
_CITED = re.compile(rf"(?<![\w.#=$%/\\-])({_NUMBER})(?:(?: to |–|-)({_NUMBER}|\d+|[a-z]))?(?![\w\\]|-\w|\.\w)")
_IN_BRACKETS = re.compile(rf"\((?:{_NUMBER}(?:, | to | and |\)))+")
_ROW = re.compile(r"(?:\b[Rr]ows? |\bROW=)(P\d+(?:(?:, | and | to |-)P\d+)*)")


@cache
def lines() -> Mapping[tuple[str, bool], str]:
    """(number, whether it is a row of the benchmark) to the section in which its line stands."""
    found: dict[tuple[str, bool], str] = {}
    section = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"## (.+)", line):
            section = heading[1]
        elif row := re.fullmatch(rf"\| ({_NUMBER}) \| (.+) \|", line):
            number = (row[1], section == ROWS or row[2].startswith("Benchmark:"))
            assert number not in found, f"{row[1]} has two lines"
            assert row[2].endswith(".") or section == ROWS, f"{row[1]} is no sentence"
            found[number] = section
    return found


@cache
def citations() -> Mapping[Path, frozenset[tuple[str, bool]]]:
    """What each file of the repository cites."""
    return {
        path: frozenset(_cited(path))
        for path in files()
        if path.suffix in READ and path != PAGE and "golden" not in path.parts and "requirements" not in path.parts
    }


def _cited(path: Path) -> Iterator[tuple[str, bool]]:
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text("utf-8")
    if path == Path(__file__):
        text = __doc__  # what follows is examples
    rows = name.startswith(OF_THE_BENCHMARK)
    for row in _ROW.finditer(text):
        yield from ((number, True) for number in re.findall(r"P\d+", row[1]))
    if any("S3" in _numbers(group) for group in _IN_BRACKETS.findall(text)):
        yield "S3", False
    for number in _numbers(_ROW.sub("", text)):
        if number != "S3" and number not in NOT_CITED.get(name, ()):
            yield number, rows and number.startswith("P") and "." not in number


def _numbers(text: str) -> Iterator[str]:
    for match in _CITED.finditer(text):
        yield from _expanded(match[1], match[2])


def _expanded(first: str, last: str | None) -> Iterator[str]:
    """The numbers of a range, whose end may lack what its beginning has said: T5 to T9, B1–4, P3.1a-c."""
    yield first
    if last is None:
        return
    stem, start = (first[:-1], first[-1]) if first[-1].isalpha() else (first[0], first[1:])
    end = last.removeprefix(stem)
    if start.isalpha() and end.isalpha():
        yield from (f"{stem}{chr(letter)}" for letter in range(ord(start) + 1, ord(end) + 1))
    elif start.isdigit() and end.isdigit():
        yield from (f"{stem}{number}" for number in range(int(start) + 1, int(end) + 1))
    else:
        yield last


def test_every_citation_resolves() -> None:
    unknown = {
        f"{path.relative_to(ROOT)} cites {'row ' if row else ''}{number}"
        for path, cited in citations().items()
        for number, row in cited
        if not _resolves(number, row)
    }
    assert not unknown, "without a line in docs/requirements.md: " + "; ".join(sorted(unknown))


def _resolves(number: str, row: bool) -> bool:
    """A section of the policy resolves to the lines of its promises."""
    section = "" if row or "." in number or number[0] != "P" else f"{number}."
    return (number, row) in lines() or bool(section and any(known.startswith(section) for known, _ in lines()))


def test_a_test_cites_every_requirement() -> None:
    cited = {number for path, found in citations().items() if path.is_relative_to(ROOT / "tests") for number in found}
    missing = [
        number for (number, row), section in lines().items() if section != PLANNED and (number, row) not in cited
    ]
    assert not missing, "no test cites " + ", ".join(missing)


def test_what_a_test_cites_is_no_longer_planned() -> None:
    built = {
        f"{path.relative_to(ROOT)} cites {number}"
        for path, cited in citations().items()
        if path.is_relative_to(ROOT / "tests")
        for number, row in cited
        if lines().get((number, row)) == PLANNED
    }
    assert not built, "move the line to the section of its subject: " + "; ".join(sorted(built))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Sealed (T17, T27), and read by its row (B1 to B3).", {"T17", "T27", "B1", "B2", "B3"}),
        ("P3.1a-c: administer", {"P3.1a", "P3.1b", "P3.1c"}),
        ("(P3.1a to c)", {"P3.1a", "P3.1b", "P3.1c"}),
        ("Objects in S3, by boto3", set()),
        ("A session (S1, S3, S4)", {"S1", "S3", "S4"}),
        ("Swept (S1 to S4, P9.3)", {"S1", "S2", "S3", "S4", "P9.3"}),
        ("E10–12", {"E10", "E11", "E12"}),
        ("duration P7Y, S608, UTF-8, v1.T2x, noqa: E501", set()),
    ],
)
def test_what_a_citation_is(text: str, numbers: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.architecture.test_requirements.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(text, "utf-8")
    assert {number for number, _ in _cited(path)} == numbers


def test_a_row_of_the_benchmark_is_told_from_a_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.architecture.test_requirements.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text("Memory is flat (rows P8 and P9, ROW=P11-P8); disclosed by law (P4)", "utf-8")
    assert set(_cited(path)) == {("P8", True), ("P9", True), ("P11", True), ("P4", False)}
