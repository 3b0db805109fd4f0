"""`tenure health`, for container health checks: healthy means that due work gets done, not that a ping answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import click
import redis
from sqlalchemy import Connection, text

from models.base.unit_of_work import Database
from models.work import control, row
from tasks.engine.job import Job
from tasks.engine.registry import jobs
from workers.celery.beat import TICKED
from workers.celery.liveness import folder_of, notes
from workers.services.relay import APPLICATION_NAME
from workers.settings.settings import Settings, settings
from workers.terminal.output import reports_errors

#: Work that waits longer than this while a worker is up is not being done.
OVERDUE_AFTER = timedelta(minutes=5)
#: A relay looks at least every second, a Beat ticks at least every ten.
SILENCE = timedelta(seconds=60)
#: Seconds: a worker with a free process asks the broker every second, and notes every second that it lives.
DEAF = 15.0


def worker(chosen: Settings, connection: Connection) -> str | None:
    """What is wrong with the worker on this host, or None."""
    workers = list(notes(folder_of(chosen.database_url, chosen.broker_url)))
    if not workers:
        return "no worker runs on this host: look at its log, or start one with celery -A workers.app worker."
    for each in workers:
        if each.lost:
            return (
                f"{each.name} has had no connection to the broker for {each.silent_for:.0f} s ({each.lost}): it tries "
                "again every few seconds."
            )
        if each.old_by > DEAF:
            return f"{each.name} has done nothing for {each.old_by:.0f} s: its main process hangs, restart it."
        if each.silent_for > DEAF:
            return f"{each.name} has taken no message for {each.silent_for:.0f} s, though it has free processes."
    return overdue(connection, jobs())


def overdue(connection: Connection, of: Sequence[Job[Any, Any]]) -> str | None:
    """The first of `of` whose work has waited for too long while nothing was done, in a sentence; None if none has.

    A backlog is no illness while it shrinks.
    """
    for job in of:
        waited = row.longest_wait(connection, job.table, job.where)
        if waited is None or waited <= OVERDUE_AFTER or control.is_paused(connection, job.task, *job.limits):
            continue
        idle = row.since_last_finished(connection, job.table)
        if idle is None or idle > OVERDUE_AFTER:
            return f"{job.task} has had due work for {waited.total_seconds():.0f} s and nothing was done meanwhile."
    return None


def relay(_chosen: Settings, connection: Connection) -> str | None:
    looked = connection.execute(
        text("""
            SELECT now() - max(state_change) FROM pg_stat_activity
             WHERE application_name = :name AND datname = current_database()"""),
        {"name": APPLICATION_NAME},
    ).scalar_one()
    if looked is None:
        return "no relay is connected to PostgreSQL: start one with tenure relay."
    if looked > SILENCE:
        return f"the relay last looked {looked.total_seconds():.0f} s ago: restart it."
    return None


def beat(chosen: Settings, _connection: Connection) -> str | None:
    try:
        with redis.Redis.from_url(chosen.broker_url, socket_connect_timeout=5, socket_timeout=5) as client:
            left = client.ttl(TICKED)
    except (redis.RedisError, OSError) as error:
        return f"the broker does not answer ({type(error).__name__}), so Beat cannot tick."
    if not isinstance(left, int) or left < 0:
        return f"no Beat has ticked for {SILENCE.total_seconds():.0f} s: start one with celery -A workers.app beat."
    return None


PARTS: Mapping[str, Callable[[Settings, Connection], str | None]] = {"worker": worker, "beat": beat, "relay": relay}


@click.command()
@click.argument("part", type=click.Choice(list(PARTS)))
@reports_errors
def health(part: str) -> int:
    """For health checks of containers. Exits with 1 if due work is not done."""
    chosen = settings()
    with Database(chosen.database_url, pool_size=1).connection() as connection:
        wrong = PARTS[part](chosen, connection)
    click.echo(f"{part}: {wrong or 'healthy'}", err=bool(wrong))
    return int(wrong is not None)
