"""`tenure sessions`: how the session stores stand, and their sweep by hand (S7).

Exit codes: 0 fine, 1 a store is in trouble or holds what it may not, 2 wrong settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, text

from models.unit_of_work import Database
from tasks.failures import Failure
from tasks.ports import SessionStore
from tasks.sessions import OwnSessions
from tasks.sessions import sweep as sweep_stores
from workers import bootstrap
from workers.operations import in_words
from workers.policy import STORED_AT_MOST
from workers.settings import settings

PARTITIONS = text("""
    SELECT (SELECT count(*) FROM tenure.session_partitions) AS partitions,
           (SELECT count(*) FROM tenure.session_partitions WHERE until <= now() - interval '24 hours') AS over,
           (SELECT extract(epoch FROM max(until) - now()) FROM tenure.session_partitions) AS ahead_seconds,
           (SELECT count(*) FROM tenure.sessions_default) AS in_default""")


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
        return bool(self.trouble or self.outlasting or (self.oldest_seconds or 0) > STORED_AT_MOST.total_seconds())


def stats(json: bool) -> int:
    with in_words():
        chosen = settings()
        database = Database(chosen.database_url, pool_size=1)
        stores = (OwnSessions(database), *bootstrap.session_stores(chosen, database))
        lines = [_line(database, store) for store in stores]
        with database.connection() as connection:
            partitions = dict(connection.execute(PARTITIONS).one()._mapping)
    if json:
        rows = [{name: getattr(line, name) for name in Line.__slots__} for line in lines]
        click.echo(msgspec.json.format(msgspec.json.encode({"stores": rows, "partitions": partitions}, enc_hook=float)))
        return int(any(line.wrong for line in lines))
    table = Table(box=None, pad_edge=False)
    for heading in ("store", "sessions", "oldest", "swept in all", "last sweep"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for line in lines:
        count = "–" if line.stored is None else f"{line.stored:,}"
        ago = "never" if line.swept_seconds_ago is None else f"{_span(line.swept_seconds_ago)} ago"
        table.add_row(line.store, count, _span(line.oldest_seconds), f"{line.swept:,}", ago)
    Console().print(table)
    ahead = float(partitions["ahead_seconds"] or 0)
    click.echo(
        f"\n{partitions['partitions']} partitions, {_span(ahead) if ahead > 0 else 'none'} ahead, "
        f"{partitions['over']} over and to be dropped; {partitions['in_default']:,} sessions in the default partition"
    )
    for line in lines:
        for said in _complaints(line):
            click.echo(f"{line.store}: {said}")
    return int(any(line.wrong for line in lines))


def sweep(json: bool) -> int:
    with in_words():
        from workers.app import app  # noqa: PLC0415 - Celery, for its broker

        ports = bootstrap.ports(settings(), app)
        counts = sweep_stores(ports)
        troubles = _troubles(ports.database, [store.name for store in ports.session_stores])
    if json:
        click.echo(msgspec.json.format(msgspec.json.encode(counts), indent=2))
    else:
        for name in ("tenure", *(store.name for store in ports.session_stores)):
            said = f"{counts[name]:,} sessions ended" if name in counts else troubles.get(name, "not swept")
            click.echo(f"{name}: {said}")
        if "cut" in counts:
            click.echo(f"{counts['cut']:,} sessions were cut to what is left of their day")
        oldest = counts.get("oldest_seconds")
        click.echo(f"oldest left: {_span(oldest)}")
    return int("in_trouble" in counts)


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
    if (line.oldest_seconds or 0) > STORED_AT_MOST.total_seconds():
        said.append("its oldest session is over and still stored: is `sessions.sweep` running?")
    return said


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min"
