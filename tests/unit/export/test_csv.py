"""CSV as archives hold it: exact, torn nowhere, and with nothing that a spreadsheet runs (T13, T14)."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.data_map.map import Category, MappedTable, Name, ObjectPrefix, Path
from tasks.export.guard import STARTERS, guard, is_risky, undo
from tasks.export.naming import Names
from tasks.export.prefetch import ahead
from tasks.export.reading import CSVError, cells
from workers.adapters.objects.parts import FIRST, MOST, part_size, parts

lock_timeout = settings(deadline=None)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@lock_timeout
@given(st.text("'" + STARTERS + "aß0 \u200f", max_size=6) | TEXT)
@example("'")
@example("''=1")
def test_the_guard_is_undone_exactly_and_leaves_no_formula(text: str) -> None:
    assert undo(guard(text)) == text
    assert not is_risky(guard(text))
    if not text.lstrip("'")[:1] or text.lstrip("'")[0] not in STARTERS:
        assert guard(text) == text


@lock_timeout
@given(st.lists(st.lists(st.none() | TEXT, min_size=2, max_size=2)), st.integers(1, 50))
def test_rows_come_in_pieces_of_any_size(rows: list[list[str | None]], size: int) -> None:
    def cell(value: str | None) -> str:
        return "" if value is None else '"' + value.replace('"', '""') + '"'

    content = "".join(",".join(map(cell, row)) + "\r\n" for row in rows).encode()
    assert list(cells(content[at : at + size] for at in range(0, len(content), size))) == rows


def test_a_cell_of_many_megabytes_is_read_in_one_go() -> None:
    value = 'a"\r\n,' * 1_000_000
    content = f'1,"{value.replace(chr(34), chr(34) * 2)}"\r\n'.encode()
    assert list(cells(content[at : at + 65_536] for at in range(0, len(content), 65_536))) == [["1", value]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'a\r\n"b', "row 2 has no end"),
        (b"a\r\nb", "row 2 has no end"),
        (b"a,", "row 1 has no end"),
        (b'a\r\n"b"c\r\n', "row 2 is torn"),
        (b'a\r\nb"c"\r\n', "row 2 is torn"),
        (b"a\nb\r\n", "row 1 is torn"),
        (b"a\rb\r\n", "row 1 is torn"),
        (b"\xff\r\n", "not UTF-8"),
        (b"a\xc3", "not UTF-8"),
    ],
)
def test_what_is_torn_is_named_by_its_row(content: bytes, said: str) -> None:
    with pytest.raises(CSVError, match=said):
        list(cells([content]))


def test_other_readers_read_the_same() -> None:
    assert list(csv.reader(io.StringIO('"a","b"\r\n,""\r\n', newline=""))) == [["a", "b"], ["", ""]]
    assert list(cells([b'"a","b"\r\n,""\r\n'])) == [["a", "b"], [None, ""]]


@pytest.mark.parametrize("depth", [1, 4])
def test_work_ahead_is_in_order_and_never_more_than_asked(depth: int) -> None:
    begun: list[int] = []

    def numbers():
        for number in range(20):
            begun.append(number)
            yield number

    used = []
    for number in ahead(numbers(), depth):
        used.append(number)
        # One is in use, `depth` may wait or be in the making.
        assert len(begun) <= len(used) + depth
    assert used == list(range(20))


def test_work_ahead_raises_where_it_is_used_and_is_closed_when_unwanted() -> None:
    closed = []

    def broken():
        try:
            yield 1
            yield 2
            raise KeyError("third")
        finally:
            closed.append(True)

    with pytest.raises(KeyError, match="third"):
        list(ahead(broken(), 2))
    unwanted = ahead(broken(), 1)
    assert next(unwanted) == 1
    unwanted.close()
    assert closed == [True, True]


def test_parts_stay_the_same_to_15_gib_and_hold_4_tb() -> None:
    sizes = [part_size(number) for number in range(1, MOST + 1)]
    assert set(sizes[:2_000]) == {FIRST}
    assert sum(sizes[:2_000]) >= 15 << 30
    assert sum(sizes) >= 4_000_000_000_000
    assert max(sizes) <= 5 << 30
    assert [len(part) for part in parts([bytes(1 << 20)] * 17)] == [FIRST, FIRST, 1 << 20]
    assert list(parts([])) == [b""]


NOTES = ObjectPrefix("files/{account_id}/", Category.SUBMITTED)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("plan.pdf", "files/plan.pdf"),
        ("PLAN.pdf", "files/PLAN (2).pdf"),
        ("../../etc/passwd", "files/.._.._etc_passwd"),
        ("..", "files/_"),
        ("con.txt", "files/_con.txt"),
        ("a\u202egpj.exe", "files/agpj.exe"),
        ("C:\\x", "files/C__x"),
        ("dot. ", "files/dot"),
        ("\t\n", "files/_ (2)"),
        ("ü" * 200 + ".pdf", "files/" + "ü" * 73 + ".pdf"),
    ],
)
def test_a_customers_name_for_a_file_is_made_safe(name: str, path: str) -> None:
    names = Names()
    assert names.object(NOTES, "files/1/", "files/1/a", "plan.pdf") == "files/plan.pdf"
    assert names.object(NOTES, "files/1/", "files/1/b", "..") == "files/_"
    if name in {"plan.pdf", ".."}:
        names = Names()
    assert names.object(NOTES, "files/1/", "files/1/c", name) == path


@lock_timeout
@given(st.lists(st.text("aAb/.", max_size=5), unique=True, max_size=20))
@example(["a", "a/b", "A/c", "a (2)/d"])
@example(["", "a/", "a/b", "/", "//"])
def test_whatever_keys_objects_have_all_of_them_can_be_unpacked(keys: list[str]) -> None:
    """An object store has no folders: of a key may be made both a file and a folder, and of two keys the same name."""
    names = Names()
    paths = [names.object(NOTES, "files/1/", f"files/1/{key}").casefold() for key in keys]
    assert len(set(paths)) == len(keys)
    folders = {path[:at] for path in paths for at, character in enumerate(path) if character == "/"}
    assert folders.isdisjoint(paths)
    assert all(path.startswith("files/") for path in paths)


def test_a_hundred_thousand_files_may_have_one_name() -> None:
    names = Names()
    # To try each number for each file would take a quarter of an hour, and the test would be ended.
    paths = {names.object(NOTES, "files/1/", f"files/1/{n}", "photo.jpg") for n in range(100_000)}
    assert len(paths) == 100_000
    assert "files/photo (100000).jpg" in paths


def test_what_lies_in_one_folder_stays_together() -> None:
    names = Names()
    paths = [names.object(NOTES, "files/1/", f"files/1/{key}") for key in ("a", "a/b", "A/c/", "a/c/d")]
    assert paths == ["files/a", "files/a (2)/b", "files/a (2)/c/_", "files/a (2)/c/d"]


def test_a_table_of_another_database_has_a_folder() -> None:
    def table(database: str) -> MappedTable:
        path = (Path.parse("a = account.ref"),)
        return MappedTable(Name("public", "a/b"), Category.SUBMITTED, path, (), ("a",), {}, database=database)

    names = Names()
    assert names.table(table("main")) == "tables/public.a_b.csv"
    assert names.table(table("shop")) == "tables/shop/public.a_b.csv"
