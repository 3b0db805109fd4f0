"""Each row of `make bench`, small: that the work was done and the table holds it, never how long it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.__main__ import BENCHMARKS, chosen
from benchmarks.measure import Better, Goal, Measured, Row, Sample, interleaved
from benchmarks.servers import Servers, servers
from benchmarks.table import number, table
from tests.support.time.deadlines import deadline

ROOT = Path(__file__).parents[3]
SMALL = {
    "P1": 1_200,
    "P2": 3,
    "P3": 12,
    "P4": 300,
    "P5": 60,
    "P6": 4_000,
    "P7": 3_000,
    "P8": 2_000,
    "P9": 6_000,
    "P10": 1,
    "P11": 1_200,
    "P11-P3": 12,
    "P11-P8": 2_000,
    "P11-P9": 6_000,
    "P12": 1,
    "P13": 2,
}


@pytest.fixture(scope="module")
def started() -> Iterator[Servers]:
    with servers(fast=True) as made:
        yield made


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [benchmark.names[0] for benchmark in BENCHMARKS])
def test_a_small_size_of_the_row_is_done(started: Servers, name: str) -> None:
    (benchmark,) = chosen([name])
    # Each contestant asserts for itself that all of its work was done, and once.
    row = benchmark.measure(started, SMALL[name], 1)
    assert row.name == name
    assert row.goals
    kept: dict[str, Any] = json.loads(json.dumps(row.as_json()))
    for contestant in filter(None, [kept["limit"], kept["ours"], *kept["peers"]]):
        assert contestant["median"] > 0
        assert len(contestant["runs"]) == 1
    assert row.what in table([row])
    if name == "P1":
        assert row.limit is not None
        assert row.limit.wal
        assert row.ours.wal
        assert row.ours.memory


def test_it_runs_as_a_command_and_leaves_no_process(tmp_path: Path) -> None:
    kept = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", "help", "--size=1", "--runs=1", "--fast", f"--json={kept}"]
    # What it starts and keeps is then below our own folder, by which it can be found.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=deadline(200)
    )
    out = json.loads(kept.read_text("utf-8"))
    assert told.stdout.startswith(out["table"])
    assert [row["row"] for row in out["rows"]] == ["P12"]
    assert out["machine"]["PostgreSQL"].endswith("fsync off")
    assert sorted(tmp_path.iterdir()) == [kept]
    assert not [process for process in psutil.process_iter() if str(tmp_path) in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_what_cannot_be_is_refused() -> None:
    for wrong in (["P99"], ["--size=5"], ["P1", "--runs=0"]):
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks", *wrong],
            cwd=ROOT,
            check=False,
            capture_output=True,
            timeout=deadline(60),
        )
        assert told.returncode == 2


def test_each_run_is_compared_with_its_own() -> None:
    row = Row(
        "P0",
        "nothing",
        "rows/s",
        Better.HIGHER,
        Measured("ours", [Sample(10.0, 2**20, 2**21, 0.5), Sample(100.0), Sample(1_000.0)]),
        Measured("limit", [Sample(20.0), Sample(200.0), Sample(1_000.0)]),
        goals=[Goal("half", "50 %", True), Goal("all", "50 %", False)],
        notes=["a peer is not installed"],
    )
    assert row.limit is not None
    assert row.ratio(row.limit) == 0.5
    row.better = Better.LOWER
    assert row.ratio(row.limit) == 2
    shown = table([row])
    assert "| ours   | ours " in shown
    assert "**not met**" in shown
    assert "a peer is not installed" in shown
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len({len(line) for line in lines}) == 1


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str) -> Sample:
        order.append(name)
        return Sample(1.0)

    interleaved({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, 2)
    assert order == ["a", "b", "b", "a"]


@pytest.mark.parametrize(("value", "shown"), [(41_250.4, "41,250"), (12.34, "12.3"), (0.617, "0.62")])
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_all_rows_are_chosen_where_none_is_named() -> None:
    assert list(chosen([])) == list(BENCHMARKS)
    assert [benchmark.names[0] for benchmark in chosen(["growth", "p1"])] == ["P1", "P11"]
