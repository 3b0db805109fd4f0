"""`tenure work`: list, retry and cancel work rows; pause and limit jobs; replay quarantined messages (W5).

Exit codes: 0 fine, 1 something wants a person, 2 wrong use.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.work import control
from models.work import row as work_rows
from models.work.control import WorkControl
from models.work.request import Quarantined
from models.work.row import Work, work_tables
from tasks.client.requests import RequestRefused, ask
from tasks.engine.registry import jobs
from workers.settings.settings import settings
from workers.terminal.options import as_json, limit
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors

work = click.Group("work")

#: What every work row has.
COLUMNS = (
    "state",
    "due_at",
    "attempts",
    "crashes",
    "claimed_by",
    "lease_until",
    "created_at",
    "finished_at",
    "last_error",
)


@work.command("list")
@click.option("--state", help="Only rows in this state: pending, running, failed, unknown, cancelled or done.")
@click.option("--table", help="Only rows of this table, such as statements, email_messages or job_requests.")
@limit
@as_json
@reports_errors
def list_work(state: str | None, table: str | None, limit: int, json: bool) -> int:
    """List the rows that need an operator.

    Also prints how many rows of each table are in which state. Exits with 1 if a row needs an operator.
    """
    chosen = _tables(table)
    with _database().connection() as connection:
        tallies = {each.__tablename__: work_rows.tally(connection, each) for each in chosen}
        rows = [
            {"table": each.__tablename__, **row._mapping}
            for each in chosen
            for row in connection.execute(
                text(f"""
                    SELECT id, state, attempts, due_at, last_error FROM tenure.{each.__tablename__}
                     WHERE state = ANY (:states) ORDER BY due_at DESC LIMIT :limit"""),
                {"states": [state] if state else list(work_rows.WANTING), "limit": limit},
            )
        ]
        controls = connection.execute(select(WorkControl.__table__).order_by(WorkControl.task)).all()
    wanting = sum(tally.states.get(each, 0) for tally in tallies.values() for each in work_rows.WANTING)
    if json:
        print_json({"tables": {name: _tally(tally) for name, tally in tallies.items()}, "rows": rows})
        return int(wanting > 0)
    summary = Table(box=None, pad_edge=False)
    for heading in ("table", "due", "oldest due", "running", "done", "failed", "unknown", "cancelled"):
        summary.add_column(heading, justify="left" if heading == "table" else "right")
    for name, tally in tallies.items():
        counts = [str(tally.states.get(each, 0)) for each in ("running", "done", "failed", "unknown", "cancelled")]
        summary.add_row(name, str(tally.due), _age(tally.oldest_due), *counts)
    Console().print(summary)
    for each in controls:
        said = "paused" if each.paused else _limits(each.concurrency, each.rate)
        if said != "no limits":
            click.echo(f"{each.task}: {said}")
    for row in rows:
        attempts = "1 attempt" if row["attempts"] == 1 else f"{row['attempts']} attempts"
        click.echo(f"\n{row['id']}  {row['table']}, {row['state']} after {attempts}")
        if row["last_error"]:
            click.echo(f"  {row['last_error']}")
    return int(wanting > 0)


@work.command()
@click.argument("row", type=click.UUID)
@as_json
@reports_errors
def show(row: UUID, json: bool) -> None:
    """Show a row with its state, attempts and last error."""
    with _database().connection() as connection:
        for table in work_tables():
            found = connection.execute(
                text(f"SELECT id, {', '.join(COLUMNS)} FROM tenure.{table.__tablename__} WHERE id = :id"), {"id": row}
            ).one_or_none()
            if found:
                values = {"table": table.__tablename__, **found._mapping, "retries": _retries(connection, table, row)}
                if json:
                    print_json(values)
                else:
                    for name, value in values.items():
                        click.echo(f"{name:<14} {_plain(value)}")
                return
    raise WrongUse(f"there is no work row {row}; `tenure work list` shows those there are.")


def _retries(connection: Connection, table: type[Work], row: UUID) -> str | None:
    """In words, when the job of a row tries it again; None where no job drains its table."""
    for job in jobs():
        if (
            job.table is table
            and connection.execute(
                text(f"SELECT EXISTS (SELECT FROM tenure.{table.__tablename__} WHERE id = :id AND ({job.where}))"),
                {"id": row},
            ).scalar_one()
        ):
            each = job.retries
            return (
                f"after {_in_words(each.first)}, then twice as long each time, at most {_in_words(each.longest)}; "
                f"{each.attempts} attempts in about {_in_words(each.lasting)}; {table.max_attempts} after a bug"
            )
    return None


def _in_words(time: timedelta) -> str:
    """Days and hours, or the largest unit that divides it."""
    seconds = int(time.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        whole, rest = divmod(seconds, size)
        if whole and (not rest or size == 86_400):
            said = f"{whole} {unit}{'s' if whole > 1 else ''}"
            return f"{said} {_in_words(timedelta(seconds=rest))}" if rest else said
    return f"{seconds} seconds" if seconds != 1 else "1 second"


@work.command()
@click.argument("rows", type=click.UUID, nargs=-1)
@click.option("--failed", "table", metavar="TABLE", help="Retry all failed rows of this table.")
@reports_errors
def retry(rows: Sequence[UUID], table: str | None) -> int:
    """Retry failed, cancelled or unknown rows.

    Exits with 1 if a row is in another state.
    """
    if not rows and not table:
        raise WrongUse("name the rows to be tried again, or a table with --failed.")
    chosen = _tables(table)
    again: set[UUID] = set()
    with _database().connection() as connection:
        for each in chosen:
            ids: Iterable[UUID] = rows or connection.scalars(
                text(f"SELECT id FROM tenure.{each.__tablename__} WHERE state = 'failed'")
            )
            again |= work_rows.retry(connection, each, ids)
    return _told(again, rows, "due again", "Only failed, unknown and cancelled rows can be tried again.")


@work.command()
@click.argument("rows", type=click.UUID, nargs=-1, required=True)
@click.option("--why", default="Cancelled by an operator.", help="The reason, which is kept with the row.")
@reports_errors
def cancel(rows: Sequence[UUID], why: str) -> int:
    """Cancel pending or failed rows.

    Exits with 1 if a row is in another state.
    """
    cancelled: set[UUID] = set()
    with _database().connection() as connection:
        for each in work_tables():
            cancelled |= work_rows.cancel(connection, each, rows, why)
    return _told(cancelled, rows, "cancelled", "Only pending and failed rows can be cancelled.")


@work.command()
@click.option("--replay", type=click.UUID, help="Accept this message again, now that the reason is fixed.")
@limit
@as_json
@reports_errors
def quarantine(replay: UUID | None, limit: int, json: bool) -> int:
    """List the messages that could not be accepted.

    Prints the reasons. Exits with 1 if there are any.
    """
    with _database().transaction() as session:
        if replay:
            _replay(session, replay)
            return 0
        kept = session.scalars(
            select(Quarantined)
            .where(Quarantined.replayed_at.is_(None))
            .order_by(Quarantined.received_at.desc())
            .limit(limit)
        ).all()
    if json:
        print_json(
            [
                {"id": each.id, "received_at": each.received_at, "kind": each.kind, "reason": each.reason}
                for each in kept
            ]
        )
        return int(bool(kept))
    for each in kept:
        click.echo(f"{each.id}  {each.kind or 'no kind'}, received {each.received_at:%Y-%m-%d %H:%M:%S} UTC")
        click.echo(f"  {each.reason}")
    if not kept:
        click.echo("The quarantine is empty.")
    return int(bool(kept))


@work.command()
@click.argument("task")
@reports_errors
def pause(task: str) -> None:
    """Pause a job, such as emails.send, on all workers.

    Rows that run are finished, and no other is claimed.
    """
    _require_job(task)
    with _database().connection() as connection:
        control.set_paused(connection, task, True)
    click.echo(f"{task} is paused on all workers; go on with: tenure work resume {task}")


@work.command()
@click.argument("task")
@reports_errors
def resume(task: str) -> None:
    """Resume a paused job."""
    _require_job(task)
    with _database().connection() as connection:
        control.set_paused(connection, task, False)
    click.echo(f"{task} goes on.")


@work.command("limit")
@click.argument("task")
@click.option("--concurrency", type=click.IntRange(0), help="Rows at the same time, over all workers.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Rows a second, over all workers.")
@reports_errors
def limit_job(task: str, concurrency: int | None, rate: float | None) -> None:
    """Limit a job, such as emails.send, over all workers.

    Without options, lifts its limits.
    """
    _require_job(task)
    with _database().connection() as connection:
        control.set_limits(connection, task, concurrency=concurrency, rate=rate)
    click.echo(f"{task}: {_limits(concurrency, rate)}.")


def _limits(concurrency: int | None, rate: float | None) -> str:
    said = [f"at most {concurrency} at once"] if concurrency is not None else []
    said += [f"at most {rate:g} a second"] if rate is not None else []
    return ", ".join(said) or "no limits"


def _require_job(task: str) -> None:
    """Raises WrongUse if there is no job or limit of this name."""
    tasks = sorted({name for job in jobs() for name in (job.task, *job.limits)})
    if task not in tasks:
        raise WrongUse(f"there is no job {task!r}; there are {', '.join(tasks)}.")


def _replay(session: Session, which: UUID) -> None:
    """Ask again for what a quarantined message asked for; it stays, marked, when that is accepted."""
    kept = session.get(Quarantined, which)
    if kept is None:
        raise WrongUse(f"there is no quarantined message {which}.")
    try:
        args, kwargs = _arguments(kept.body)
        if args or kept.kind is None:
            raise RequestRefused("It is not a request with named arguments, and so cannot be replayed.")
        key = kwargs.pop("dedupe_key", None) or f"message:{kept.message_id}"
        made = ask(session, kept.kind, kwargs, dedupe_key=key, source="operator")
    except RequestRefused as refusal:
        raise CommandFailed(f"still refused: {refusal}") from refusal
    session.execute(text("UPDATE tenure.quarantine SET replayed_at = now() WHERE id = :id"), {"id": kept.id})
    click.echo(f"Accepted as request {made}.")


def _arguments(body: bytes) -> tuple[Sequence[Any], dict[str, Any]]:
    """Positional and named arguments of a message as it was kept: ours, or Celery's `[args, kwargs, embed]`."""
    for candidate in (body, _unbase64(body)):
        try:
            content = msgspec.json.decode(candidate)
        except msgspec.DecodeError:
            continue
        match content:
            case {"args": list(args), "kwargs": dict(kwargs)}:
                return args, kwargs
            case [list(args), dict(kwargs), *_]:
                return args, kwargs
    raise RequestRefused("Its body is not that of a task message, and so cannot be replayed.")


def _unbase64(body: bytes) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        return b""


def _tables(name: str | None) -> Sequence[type[Work]]:
    """The table of this name, or all work tables. Raises WrongUse if there is none of this name."""
    tables = {each.__tablename__: each for each in work_tables()}
    if name is None:
        return list(tables.values())
    if name not in tables:
        raise WrongUse(f"there is no work table {name!r}; there are {', '.join(sorted(tables))}.")
    return [tables[name]]


def _told(done: set[UUID], asked: Sequence[UUID], what: str, otherwise: str) -> int:
    click.echo(f"{len(done)} rows {what}." if len(done) != 1 else f"1 row {what}.")
    left = [row for row in asked if row not in done]
    for row in left:
        click.echo(f"tenure: {row} was left as it is. {otherwise}", err=True)
    return int(bool(left))


def _tally(tally: work_rows.Tally) -> dict[str, Any]:
    oldest = tally.oldest_due.total_seconds() if tally.oldest_due else None
    return {"states": tally.states, "due": tally.due, "oldest_due_seconds": oldest}


def _age(age: timedelta | None) -> str:
    if age is None:
        return "–"
    seconds = int(age.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)


def _database() -> Database:
    return Database(settings().database_url, pool_size=1)
