"""Watches the work go on: four bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage
from workers.demo.counts import Broker, Counts, count

#: Seconds between two looks on a terminal, and between two lines elsewhere.
LOOK = 0.25
LINE = 3.0
#: Seconds over which the rate that is shown is measured.
RATE_OVER = 4.0
#: Seconds without any change after which nobody believes that something will come.
STALLED = 120.0


class Stalled(Exception):
    """Nothing moves any more; the text says what is left."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known beforehand, for the length of the bars; mails may be more, by what is asked for meanwhile."""

    statements: int
    mails: int
    sessions: int
    requests: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    done: int
    total: int


def rows(counts: Counts, expected: Expected) -> list[Row]:
    return [
        Row("statements", counts.statements_done, max(expected.statements, counts.statements)),
        Row("mails", counts.mails_done, max(expected.mails, counts.mails)),
        Row("old sessions", max(0, expected.sessions - counts.expired), expected.sessions),
        Row("requests", counts.requests_done, max(expected.requests, counts.requests)),
    ]


def watch(console: Console, database: Database, broker: Broker, expected: Expected) -> tuple[Counts, float]:
    """Show how the work goes on until nothing is due; returns the last counts and the seconds it took.

    Raises Stalled. An outage of PostgreSQL or of the broker is shown and waited for.
    """
    began = changed = monotonic()
    before: Counts | None = None
    rates = Rates()
    with _shown(console) as show:
        while True:
            now = monotonic()
            try:
                with database.connection() as connection:
                    counts = count(connection)
            except DBAPIError as error:
                if not is_outage(error):
                    raise
                if now - changed > STALLED:
                    raise Stalled("PostgreSQL does not answer.") from error
                sleep(LOOK)
                continue
            if counts != before:
                before, changed = counts, now
            lines = rows(counts, expected)
            rates.note(now, lines)
            over = counts.idle and counts.requests >= expected.requests and counts.quarantined >= expected.quarantined
            show(lines, rates, broker.waiting(), now - began, over)
            if over:
                return counts, now - began
            if now - changed > STALLED:
                raise Stalled(_what_is_left(counts, expected))
            # However many rows there are to count, counting takes no more than a tenth of the time.
            sleep(max(LOOK, 10 * (monotonic() - now)))


def _what_is_left(counts: Counts, expected: Expected) -> str:
    left = {
        "accounts without their statements": counts.unplanned,
        "statements": counts.statements_open,
        "mails": counts.mails_open,
        "requests": counts.requests_open + max(0, expected.requests - counts.requests),
        "expired sessions": counts.expired,
        "messages that should be in quarantine": max(0, expected.quarantined - counts.quarantined),
    }
    listed = ", ".join(f"{number:,} {what}" for what, number in left.items() if number)
    return f"Nothing has moved for {STALLED:.0f} s, and this is left: {listed}. See the worker's log."


class Rates:
    """How much is done a second, of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def note(self, now: float, lines: list[Row]) -> None:
        self._seen.append((now, {line.name: line.done for line in lines}))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER:
            self._seen.popleft()

    def of(self, line: Row) -> float:
        (first, earlier), (last, later) = self._seen[0], self._seen[-1]
        return (later[line.name] - earlier[line.name]) / (last - first) if last > first else 0.0


Show = Callable[[list[Row], Rates, Mapping[str, int], float, bool], None]


@contextmanager
def _shown(console: Console) -> Iterator[Show]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def show(lines: list[Row], rates: Rates, waiting: Mapping[str, int], seconds: float, over: bool) -> None:
            live.update(picture(lines, rates, waiting, seconds, over), refresh=True)

        yield show


def picture(lines: list[Row], rates: Rates, waiting: Mapping[str, int], seconds: float, over: bool) -> Table:
    """The four bars and, below, what waits in the broker; columns keep their width, so that nothing jumps."""
    whole = Table.grid(padding=(0, 0))
    whole.add_column(no_wrap=True)
    bars = Table.grid(padding=(0, 2, 0, 0))
    bars.add_column(width=16, no_wrap=True)
    bars.add_column(width=26)
    bars.add_column(width=17, justify="right", no_wrap=True)
    bars.add_column(width=8, justify="right", no_wrap=True)
    for line in lines:
        complete = line.done >= line.total
        rate = rates.of(line)
        bars.add_row(
            f"  {line.name}",
            ProgressBar(
                total=max(1, line.total),
                completed=line.done if line.total else 1,
                width=26,
                complete_style="cyan",
                finished_style="green",
                style="bright_black",
            ),
            Text(f"{line.done:,} / {line.total:,}", style="green" if complete else ""),
            Text("" if over or rate < 0.5 else f"{rate:,.0f}/s", style="dim"),
        )
    whole.add_row(bars)
    queues = "  ".join(f"{queue} {length}" for queue, length in waiting.items()) or "empty"
    note = f"{seconds:.1f} s" if over else f"{seconds:.0f} s · messages in the broker: {queues}"
    whole.add_row(Text(f"  {note}", style="dim"))
    return whole


class _Lines:
    """For a log: a line now and then, and one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __call__(self, lines: list[Row], rates: Rates, waiting: Mapping[str, int], seconds: float, over: bool) -> None:
        if seconds < self._next and not over:
            return
        self._next = seconds + LINE
        done = ", ".join(f"{line.name} {line.done}/{line.total}" for line in lines)
        self._console.print(
            f"  {seconds:5.1f} s  {done}, waiting in the broker {sum(waiting.values())}", soft_wrap=True
        )
