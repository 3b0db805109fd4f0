"""How far a termination is, as a person reads it: once, or followed until its end (T28).

On a terminal it is drawn in place; elsewhere each line says what has changed. All of it is read from the database, so
it is true whoever does the work, and the same for everybody who looks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, sleep
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage
from models.termination.purge import StoreKind
from models.termination.termination import Stage
from tasks.termination import progress
from tasks.termination.progress import Progress, Store
from workers.terminal.output import print_json

#: Seconds between two looks, and between two lines about the same step.
LOOK: Final = 0.5
LINE: Final = 3.0
#: Wider, and the eye loses the line.
WIDTH: Final = 100
#: Stores that are shown where there is no end of room, and at least.
MOST, LEAST = 200, 3
ASIDE: Final = frozenset({Stage.HELD, Stage.FAILED})
ENDS: Final = frozenset({Stage.CERTIFIED, Stage.CANCELLED, *ASIDE})

#: By the ref that it has now, or had before it was purged; of several terminations the latest.
FIND = text("""
    SELECT termination.*, account.status, now() AS seen_at
      FROM tenure.terminations AS termination JOIN tenure.accounts AS account ON account.id = termination.account_id
     WHERE account.ref IN (:ref, tenure.purged_ref(:ref))
     ORDER BY termination.requested_at DESC LIMIT 1""")
_STEPS = text("""
    SELECT step, number, state, due_at, finished_at, last_error, evidence FROM tenure.termination_steps
     WHERE termination_id = :id ORDER BY coalesce(finished_at, due_at), id""")
#: What stands in its row of when it came to what.
_INSTANTS = (
    "requested_at", "ends_at", "cancel_until", "frozen_at", "sealed_at", "available_until", "downloaded_at",
    "delivered_at", "purge_began_at", "verified_at", "certified_at", "archive_purged_at", "cancelled_at",
)  # fmt: skip
_COLOURS = {"done": "green", "failed": "bold red", "cancelled": "dim"}
_UNITS = {StoreKind.TABLE: "rows", StoreKind.OBJECTS: "objects", StoreKind.REDIS: "keys"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A termination at one moment."""

    ref: str
    found: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    progress: Progress | None

    @property
    def stage(self) -> str:
        return str(self.found["stage"])

    @property
    def is_aside(self) -> bool:
        return self.stage in ASIDE


def look(connection: Connection, ref: str) -> Seen | None:
    """None where no termination of this account is known."""
    found = connection.execute(FIND, {"ref": ref}).mappings().one_or_none()
    if found is None:
        return None
    steps = [dict(row) for row in connection.execute(_STEPS, {"id": found["id"]}).mappings()]
    return Seen(ref, dict(found), steps, progress.progress(connection, found["id"]))


def as_dict(seen: Seen) -> dict[str, Any]:
    """For `--json`."""
    told: dict[str, Any] = {"termination": seen.found["id"], "stage": seen.stage, "before": seen.found["stage_before"]}
    told |= {name: seen.found[name] for name in _INSTANTS}
    return told | {"steps": seen.steps, "progress": progress.as_dict(seen.progress)}


def picture(seen: Seen, *, height: int = MOST) -> RenderableType:
    """All of it; of the stores no more than a terminal of this height has room for."""
    before = f", before that {seen.found['stage_before']}" if seen.is_aside else ""
    parts: list[RenderableType] = [
        Text.from_markup(f"Termination {seen.found['id']} of {escape(seen.ref)}: [bold]{seen.stage}[/]{before}\n"),
        _steps(seen),
    ]
    if seen.progress is not None:
        room = max(LEAST, height - len(seen.steps) - 8)
        parts += [Text(), Text.from_markup(f"[dim]{_sum(seen.progress)}[/]"), _stores(seen.progress, room)]
    return Group(*parts)


def _steps(seen: Seen) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("step", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("when (UTC)", no_wrap=True)
    table.add_column("what it saw", overflow="fold")
    for step in seen.steps:
        when = step["finished_at"] or step["due_at"]
        said = step["last_error"] if step["state"] != "done" else ", ".join(_facts(step["evidence"]))
        waits = " from" if step["state"] == "pending" and when > seen.found["seen_at"] else ""
        state = f"[{_COLOURS.get(step['state'], 'yellow')}]{step['state']}{waits}[/]"
        table.add_row(_named(step), state, f"{when:%Y-%m-%d %H:%M}", escape(said or ""))
    return table


def _named(step: Mapping[str, Any]) -> str:
    return str(step["step"]).replace("_", " ") + (f" {step['number']}" if step["number"] else "")


def _facts(evidence: Mapping[str, Any]) -> list[str]:
    told = []
    for name, value in evidence.items():
        if isinstance(value, dict):
            told += [f"{name} {', '.join(_facts(value))}"] if value else []
        elif isinstance(value, bool | str):
            told.append(f"{name} {value}")
        elif isinstance(value, int):
            told.append(f"{name} {value:,}")
    return told


def _sum(seen: Progress) -> str:
    """`purge: 3 of 41 stores, 81,400 of 400,012 rows, 2 of 2 objects`"""
    sums = [
        f"{seen.done(kind):,} of {seen.total(kind):,} {unit}" for kind, unit in _UNITS.items() if seen.total(kind) > 0
    ]
    return ", ".join(
        [f"{_named({'step': seen.step, 'number': seen.number})}: {seen.over} of {len(seen.stores)} stores", *sums]
    )


def _stores(seen: Progress, room: int) -> RenderableType:
    """Those that hold anything, in their order; where there is not room for all, what is under way and the largest."""
    filled = [each for each in seen.stores if each.done or each.total or (each.done is not None and not each.over)]
    shown = filled
    if len(filled) > room:
        largest = sorted(filled, key=lambda each: (_is_under_way(each), max(each.total or 0, each.done or 0)))
        kept = {id(each) for each in largest[-room:]}
        shown = [each for each in filled if id(each) in kept]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=38)
    table.add_column(width=20)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(style="yellow", overflow="fold")
    for each in shown:
        table.add_row(*_row(each))
    more = len(seen.stores) - len(shown)
    return Group(table, Text(f"  {more} more, empty or small", style="dim")) if more else table


def _is_under_way(store: Store) -> bool:
    return store.done is not None and not store.over


def _row(store: Store) -> tuple[RenderableType, ...]:
    where = "" if store.place in {"", "main"} or store.kind != StoreKind.TABLE else f" in {store.place}"
    total = None if store.total is None else max(store.total, store.done or 0)
    bar = ProgressBar(
        # A bar without an end would move, and a picture of the past does not.
        total=max(1, total or 1),
        completed=(store.done or 0) if total else int(store.over),
        width=20,
        complete_style="cyan",
        finished_style="green" if store.over else "cyan",
        style="bright_black",
    )
    figure = (
        ""
        if store.done is None and total is None
        else f"{store.done or 0:,} / {'?' if total is None else f'{total:,}'}"
    )
    rate = f"{store.rate:,.0f}/s" if store.rate is not None and store.rate >= 1 and store.seconds >= LOOK else ""
    name = Text(f"  {store.store}{where}", style="" if _is_under_way(store) else "dim")
    return name, bar, Text(figure, style="green" if store.over else ""), rate, store.remark or ""


def show(seen: Seen, json: bool) -> None:
    if json:
        print_json(as_dict(seen))
        return
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    console.print(picture(seen))


def watch(database: Database, ref: str, json: bool) -> Seen | None:
    """Show it until it has ended or stands aside; returns the last of it, None where there is no such termination.

    An outage of PostgreSQL is waited for.
    """
    console = Console(highlight=False)
    drawn = console.is_terminal and not json
    said = _Said(console, json)
    with Live(console=console, auto_refresh=False) if drawn else nullcontext() as live:
        while True:
            began = monotonic()
            try:
                with database.connection() as connection:
                    seen = look(connection, ref)
            except DBAPIError as error:
                if not is_outage(error):
                    raise
                sleep(LOOK)
                continue
            if seen is None:
                return None
            if live is None:
                said(seen)
            else:
                live.update(picture(seen, height=console.height), refresh=True)
            if seen.stage in ENDS:
                return seen
            # However much there is to look at, looking takes no more than a tenth of the time.
            sleep(max(LOOK, 10 * (monotonic() - began)))


class _Said:
    """For a log: a line where a step has ended or the stage is another one, and now and then one in between."""

    def __init__(self, console: Console, json: bool) -> None:
        self._console, self._json = console, json
        self._known: dict[str, Any] = {}
        self._next = 0.0

    def __call__(self, seen: Seen) -> None:
        if self._json:
            self._as_json(seen)
            return
        for step in seen.steps:
            key = _named(step)
            state = (step["state"], step["last_error"]) if step["state"] != "running" else None
            if state is None or self._known.get(key) == state:
                continue
            self._known[key] = state
            if step["state"] == "done":
                self._line(step["finished_at"], f"{key} done", ", ".join(_facts(step["evidence"])))
            elif step["last_error"]:
                self._line(seen.found["seen_at"], f"{key} {step['state']}", step["last_error"])
        if self._known.get("") != seen.stage:
            self._known[""] = seen.stage
            self._line(seen.found["seen_at"], f"[bold]{seen.stage}[/]", "")
        if seen.progress is not None and monotonic() >= self._next:
            line = _sum(seen.progress)
            if self._known.get("progress") != line:
                self._known["progress"], self._next = line, monotonic() + LINE
                self._line(seen.found["seen_at"], line, "")

    def _line(self, when: datetime, what: str, facts: str) -> None:
        self._console.print(f"{when:%H:%M:%S}  {what}" + (f": {escape(facts)}" if facts else ""), soft_wrap=True)

    def _as_json(self, seen: Seen) -> None:
        told = as_dict(seen)
        moving = {**told, "progress": told["progress"] and [each["done"] for each in told["progress"]["stores"]]}
        if self._known.get("json") != moving:
            self._known["json"] = moving
            print_json(told, lines=True)
