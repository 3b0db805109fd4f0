"""`tenure sessions`: show and sweep the session stores (S7).

Exit codes: 0 fine, 1 a store is in trouble or holds what it may not, 2 wrong settings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, text

from models.base.unit_of_work import Database
from tasks.failures import Failure
from tasks.ports.sessions import SessionStore
from tasks.sessions.sweep import OwnSessions
from tasks.sessions.sweep import sweep as sweep_stores
from workers.celery import logs
from workers.observe.promises.report import STORED_AT_MOST
from workers.settings.settings import settings
from workers.terminal.options import as_json
from workers.terminal.output import print_json, reports_errors
from workers.wiring import bootstrap

sessions = click.Group("sessions", help="Sessions have to be gone 24 hours after they began (P9.3).")

PARTITIONS = text("""
    SELECT (SELECT count(*) FROM tenure.session_partitions) AS partitions,
           (SELECT count(*) FROM tenure.session_partitions WHERE until <= now() - interval '24 hours') AS over,
           (SELECT extract(epoch FROM max(until) - now())::float FROM tenure.session_partitions) AS ahead_seconds,
           (SELECT count(*) FROM tenure.sessions_default) AS in_default,
           (SELECT count(*) FROM tenure.held_sessions)
           + (SELECT count(*) FROM tenure.held_session_keys) AS held""")


@dataclass(frozen=True, slots=True)
class Line:
    """One store. Ages are in seconds; None where there is nothing to measure."""

    store: str
    stored: int | None
    oldest_seconds: float | None
    outlasting: int
    swept: int
    swept_seconds_ago: float | None
    trouble: str | None

    @property
    def wrong(self) -> bool:
        return bool(self.trouble or self.outlasting or self.overdue)

    @property
    def overdue(self) -> bool:
        return (self.oldest_seconds or 0) > STORED_AT_MOST.total_seconds()


@sessions.command()
@as_json
@reports_errors
def stats(json: bool) -> int:
    """Show the sessions in each store.

    Prints how many there are, the age of the oldest, and how many were swept. Exits with 1 if a session is older
    than allowed, or a store cannot be read.
    """
    chosen = settings()
    database = Database(chosen.database_url, pool_size=1)
    stores = (OwnSessions(database), *bootstrap.session_stores(chosen, database))
    lines = [_line(database, store) for store in stores]
    with database.connection() as connection:
        partitions = dict(connection.execute(PARTITIONS).one()._mapping)
    if json:
        rows = [{name: getattr(line, name) for name in Line.__slots__} for line in lines]
        print_json({"stores": rows, "partitions": partitions})
        return int(any(line.wrong for line in lines))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("store", "sessions", "oldest", "swept in all", "last sweep"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for line in lines:
        count = "–" if line.stored is None else f"{line.stored:,}"
        ago = "[yellow]never[/]" if line.swept_seconds_ago is None else f"{_span(line.swept_seconds_ago)} ago"
        oldest = f"[red]{_span(line.oldest_seconds)}[/]" if line.overdue else _span(line.oldest_seconds)
        table.add_row(line.store, count, oldest, f"{line.swept:,}", ago)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{_own_store(partitions)}", markup=False)
    _tell(console, [(line.store, said) for line in lines for said in _complaints(line)])
    return int(any(line.wrong for line in lines))


@sessions.command()
@as_json
@reports_errors
def sweep(json: bool) -> int:
    """Sweep every store now, until no expired session is left.

    Exits with 1 if a store could not be swept.
    """
    from workers.app import app  # noqa: PLC0415 - Celery, for its broker

    ports = bootstrap.ports(settings(), app)
    logs.configure(json=False, level=logging.ERROR)  # what it warns of is said below
    with Console(stderr=True).status("Sweeping until nothing is left that is over …"):
        counts = sweep_stores(ports)
    names = ["tenure", *(store.name for store in ports.session_stores)]
    troubles = _troubles(ports.database, names)
    if json:
        print_json(counts)
        return int("in_trouble" in counts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("store")
    table.add_column("sessions ended", justify="right")
    for name in names:
        table.add_row(name, f"{counts[name]:,}" if name in counts else "[red]not swept[/]")
    console = Console(highlight=False)
    console.print(table)
    console.print()
    if "cut" in counts:
        console.print(f"{counts['cut']:,} sessions were cut to what is left of their day.")
    oldest = counts.get("oldest_seconds")
    console.print("No session is left." if oldest is None else f"The oldest that is left began {_span(oldest)} ago.")
    _tell(console, [(name, troubles[name]) for name in names if name not in counts and name in troubles])
    return int("in_trouble" in counts)


def _own_store(partitions: Mapping[str, Any]) -> str:
    """How Tenure's own store is laid out, in a sentence or two."""
    ahead = float(partitions["ahead_seconds"] or 0)
    said = [f"{partitions['partitions']} partitions, made {_span(ahead)} ahead" if ahead > 0 else "No partition ahead"]
    if partitions["over"]:
        said.append(f"{partitions['over']} over and to be dropped")
    if partitions["in_default"]:
        said.append(f"{partitions['in_default']:,} sessions in the default one")
    held = f" {partitions['held']:,} sessions that are over are kept by legal holds." if partitions["held"] else ""
    return ", ".join(said) + "." + held


def _tell(console: Console, troubles: Sequence[tuple[str, str]]) -> None:
    """What is wrong with which store."""
    if not troubles:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for store, said in troubles:
        table.add_row("[red]✗[/]", store, escape(said))
    console.print()
    console.print(table)


def _line(database: Database, store: SessionStore) -> Line:
    with database.connection() as connection:
        known = _known(connection, store.name)
        now = connection.execute(text("SELECT now()")).scalar_one()
    figures: dict[str, Any] = {"stored": None, "oldest_seconds": None, "outlasting": 0, "trouble": known["trouble"]}
    try:
        store.check()
        left = store.left()
        figures["stored"] = store.count()
        figures["outlasting"] = left.outlasting
        figures["oldest_seconds"] = None if left.oldest_at is None else (now - left.oldest_at).total_seconds()
    except Failure as failure:
        figures["trouble"] = str(failure)
    return Line(store=store.name, swept=known["swept"], swept_seconds_ago=known["ago"], **figures)


def _known(connection: Connection, store: str) -> dict[str, Any]:
    row = connection.execute(
        text("""
            SELECT swept, extract(epoch FROM now() - swept_at)::float AS ago, trouble
              FROM tenure.session_sweeps WHERE store = :store"""),
        {"store": store},
    ).one_or_none()
    return dict(row._mapping) if row else {"swept": 0, "ago": None, "trouble": None}


def _troubles(database: Database, names: Sequence[str]) -> dict[str, str]:
    with database.connection() as connection:
        return {name: trouble for name in names if (trouble := _known(connection, name)["trouble"])}


def _complaints(line: Line) -> list[str]:
    said = [line.trouble] if line.trouble else []
    if line.outlasting:
        said.append(
            f"{line.outlasting:,} sessions end later than `lifetime_hours` says, or never: give the application's own "
            "lifetime there, and set that to 24 hours."
        )
    if line.overdue:
        said.append("its oldest session is over and still stored: is `sessions.sweep` running?")
    return said


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min"
