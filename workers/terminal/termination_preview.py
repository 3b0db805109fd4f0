"""The dry run of a termination, as a person reads it (T28)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tasks.termination.preview import Fate, Kind, Preview, Store
from workers.terminal.output import counted

WIDTH = 100
_HEADINGS = {
    Kind.TABLE: "tables",
    Kind.OBJECTS: "objects, all versions",
    Kind.REDIS: "Redis keys",
    Kind.PROCESSOR: "processors",
}
_FATES = {
    Fate.DELETED: "deleted",
    Fate.REDACTED: "[cyan]redacted[/]",
    Fate.RETAINED: "[yellow]kept[/]",
}


def show(console: Console, found: Preview) -> None:
    parts: list[RenderableType] = [_stores(found.stores), Text(), _sum(found)]
    if found.obstacles:
        parts += [Text(), *(Text.from_markup(f"[bold red]✗[/] {escape(each)}") for each in found.obstacles)]
    console.print(
        Panel(
            Group(*parts),
            title=f"[bold]Termination of {escape(found.account.ref)}[/]  dry run, nothing is changed",
            title_align="left",
            width=min(WIDTH, console.width),
            padding=(1, 2),
            border_style="red" if found.obstacles else "yellow",
        )
    )


def as_dict(found: Preview) -> dict[str, object]:
    """For `--json`."""
    return {
        "account": found.account.ref,
        "status": found.status,
        "stores": [asdict(each) for each in found.stores],
        "obstacles": list(found.obstacles),
    }


def _stores(stores: Sequence[Store]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("store", no_wrap=True)
    table.add_column("promise", no_wrap=True, style="dim")
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("record", no_wrap=True, justify="center")
    table.add_column("then", overflow="fold")
    for kind, rows in groupby(stores, key=lambda each: each.kind):
        known = list(rows)
        table.add_row(f"[bold]{_HEADINGS[kind]}[/]")
        for each in known:
            if each.count != 0:
                table.add_row(*_row(each))
        if empty := sum(each.count == 0 for each in known):
            table.add_row(f"[dim]  {empty} more, empty[/]")
    return table


def _row(store: Store) -> tuple[str, ...]:
    where = f" [dim]in {escape(store.place)}[/]" if store.place else ""
    count = "[dim]?[/]" if store.count is None else f"{store.count:,}"
    size = f" [dim]{_bytes(store.size)}[/]" if store.size else ""
    record = "[green]✓[/]" if store.exported else "[dim]–[/]"
    if store.kind is Kind.PROCESSOR:
        count, record = ("" if store.count is None else count), ""
    return (
        f"  {escape(store.name)}{where}", store.category, count + size, record,
        ", ".join(filter(None, ["" if store.kind is Kind.PROCESSOR else _FATES[store.fate], escape(store.remark)])),
    )  # fmt: skip


def _sum(found: Preview) -> RenderableType:
    exported = [each for each in found.stores if each.exported]
    files = [each for each in exported if each.kind is Kind.OBJECTS]
    rows = sum(each.count or 0 for each in exported if each.kind is Kind.TABLE)
    kept = sum(each.count or 0 for each in found.stores if each.fate is Fate.RETAINED)
    gone = found.total(Kind.TABLE) - kept
    lines = [
        f"The customer would get a record with {_many(rows, 'row')} in "
        f"{sum(each.kind is Kind.TABLE for each in exported):,} tables and "
        f"{_many(sum(each.count or 0 for each in files), 'file')} ({_bytes(sum(each.size or 0 for each in files))}).",
        f"Then {_many(gone, 'row')} and {_many(found.total(Kind.OBJECTS), 'object')} would be erased"
        + (f", and [yellow]{kept:,}[/] rows kept as a law demands." if kept else ", and nothing kept."),
    ]
    if found.obstacles:
        lines.append("[bold red]It would not come to that:[/]")
    return Text.from_markup("\n".join(lines))


def _many(number: int, what: str) -> str:
    figure, _, unit = counted(number, what).partition(" ")
    return f"[bold]{figure}[/] {unit}"


def _bytes(size: int) -> str:
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""
