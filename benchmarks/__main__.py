"""`python -m benchmarks [ROW...] [--json FILE] [--size N] [--runs N]`: measure, and print the table."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    commits,
    export,
    help_time,
    idle_memory,
    machine,
    plan_statements,
    purge,
    render_statements,
    request_to_start,
    run_due_work,
    send_mail,
    sweep_sessions,
)
from benchmarks.measure import Row
from benchmarks.servers import Servers, servers
from benchmarks.table import table


@dataclass(frozen=True)
class Benchmark:
    """One row: how it is asked for, how it is measured, and what its size counts."""

    names: Sequence[str]
    measure: Callable[[Servers, int, int], Row]
    size: int
    unit: str


BENCHMARKS = (
    Benchmark(("P1", "run"), run_due_work.rows, 200_000, "rows of work"),
    Benchmark(("P2", "request"), request_to_start.rows, 100, "requests a run"),
    Benchmark(("P3", "statements"), render_statements.rows, 1_000, "statements"),
    Benchmark(("P4", "plan"), plan_statements.rows, 100_000, "accounts"),
    Benchmark(("P5", "send"), send_mail.rows, 20_000, "messages of 10 KB"),
    Benchmark(("P6", "sweep"), sweep_sessions.own, 2_000_000, "sessions, half of them over"),
    Benchmark(("P7", "stores"), sweep_sessions.foreign, 2_000_000, "sessions in three tables, half of them over"),
    Benchmark(("P8", "export"), export.rows, 1_000_000, "rows of the account"),
    Benchmark(("P9", "purge"), purge.rows, 1_000_000, "rows of the account"),
    Benchmark(("P10", "memory"), idle_memory.rows, 1, "nothing"),
    Benchmark(("P11", "growth"), run_due_work.growth, 200_000, "rows of work, the most of three sizes"),
    Benchmark(("P11-P3", "statements-growth"), render_statements.growth, 1_000, "statements, the most of three sizes"),
    Benchmark(("P11-P8", "export-growth"), export.growth, 1_000_000, "rows, the most of three sizes"),
    Benchmark(("P11-P9", "purge-growth"), purge.growth, 1_000_000, "rows, the most of three sizes"),
    Benchmark(("P12", "help"), help_time.rows, 20, "starts a run"),
    Benchmark(("P13", "commits"), commits.rows, 5, "seconds of writing"),
)


def chosen(names: Sequence[str]) -> Sequence[Benchmark]:
    """The rows of these names, all of them where none is named. Raises ValueError for a name that there is not."""
    known = {name.casefold(): benchmark for benchmark in BENCHMARKS for name in benchmark.names}
    for name in names:
        if name.casefold() not in known:
            raise ValueError(
                f"there is no row {name!r}: choose of {', '.join(' or '.join(b.names) for b in BENCHMARKS)}"
            )
    wanted = [known[name.casefold()] for name in names]
    return [benchmark for benchmark in BENCHMARKS if benchmark in wanted or not names]


def measure(
    rows: Sequence[Benchmark], *, sizes: Mapping[str, int] | None = None, runs: int, fast: bool = False
) -> dict[str, Any]:
    """Measure the rows on servers of their own, and say what came out, as `--json` keeps it, with the table.

    `sizes` by the first name of a row, where it is not to be its own.
    """
    asked = sizes or {}
    with servers(fast=fast) as started:
        where = machine.machine(started)
        measured: list[Row] = []
        broken: list[str] = []
        for benchmark in rows:
            name = benchmark.names[0]
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                measured.append(benchmark.measure(started, asked.get(name, benchmark.size), runs))
            except Exception:
                # The rows that were measured took long, and are kept.
                traceback.print_exc()
                broken.append(name)
    return {
        "machine": where,
        "rows": [row.as_json() for row in measured],
        "broken": broken,
        "table": table(measured) if measured else "",
    }


def main() -> int:
    sizes = "; ".join(f"{benchmark.names[0]}: {benchmark.size:,} {benchmark.unit}" for benchmark in BENCHMARKS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "row", nargs="*", help=f"all, or some of: {', '.join(' or '.join(b.names) for b in BENCHMARKS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every number here")
    parser.add_argument("--size", type=int, metavar="N", help=f"for the one row that is named, instead of {sizes}")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    parser.add_argument("--fast", action="store_true", help="let PostgreSQL not wait for the disk")
    given = parser.parse_args()
    try:
        rows = chosen(given.row)
    except ValueError as error:
        parser.error(str(error))
    if given.runs < 1 or (given.size is not None and given.size < 1):
        parser.error("--runs and --size are at least 1")
    if given.size is not None and len(rows) != 1:
        parser.error("--size is for one row: name it")
    asked = {} if given.size is None else {rows[0].names[0]: given.size}
    told = measure(rows, sizes=asked, runs=given.runs, fast=given.fast)
    print(told["table"])
    print(f"\n{', '.join(f'{name} {value}' for name, value in told['machine'].items())}")
    if given.json:
        given.json.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(bool(told["broken"]))


if __name__ == "__main__":
    sys.exit(main())
