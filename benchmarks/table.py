"""The table as Markdown, so that a terminal and the README show the same."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Better, Measured, Row

MIB = 2**20
HEADINGS = ("row", "who", "median", "lowest to highest", "ours is", "peak memory", "WAL", "CPU")
RIGHT = {2, 3, 4, 5, 6, 7}


def table(rows: Sequence[Row]) -> str:
    """Every row: what was done, then the limit, ours and the peers; below it what was promised and what came out."""
    lines: list[Sequence[str]] = [HEADINGS]
    for row in rows:
        lines.append((f"**{row.name}**", f"**{row.what}**", row.unit, "", "", "", "", ""))
        if row.limit:
            lines.append(_line(row, "limit", row.limit))
        lines.append(_line(row, "ours", row.ours))
        lines += [_line(row, "peer", peer) for peer in row.peers]
    return "\n".join([*_aligned(lines), "", *_goals(rows)])


def _line(row: Row, part: str, measured: Measured) -> Sequence[str]:
    low, high = measured.spread
    return (
        part,
        measured.name,
        number(measured.median),
        f"{number(low)} to {number(high)}",
        "" if part == "ours" else _times(row, measured),
        "" if measured.memory is None else f"{measured.memory / MIB:,.0f} MiB",
        "" if measured.wal is None else f"{measured.wal / MIB:,.0f} MiB",
        "" if measured.cpu is None else f"{measured.cpu:,.1f} s",
    )


def _times(row: Row, measured: Measured) -> str:
    """`0.62 ×` of a rate; of a time or a size how many times as long or large."""
    ratio = row.ratio(measured)
    return f"{number(ratio if row.better is Better.HIGHER else 1 / ratio)} ×"


def number(value: float) -> str:
    """Three digits that count, and thousands set off: `41,250`, `9.31`, `0.62`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [f"{'-' * (width - 1)}:" if column in RIGHT else "-" * width for column, width in enumerate(widths)]
    return [text(lines[0]), f"| {' | '.join(rule)} |", *map(text, lines[1:])]


def _goals(rows: Sequence[Row]) -> list[str]:
    said = [
        f"- {row.name}: {goal.promise}: {goal.outcome}, {'met' if goal.met else '**not met**'}"
        for row in rows
        for goal in row.goals
    ]
    return said + [f"- {row.name}: {note}" for row in rows for note in row.notes]
