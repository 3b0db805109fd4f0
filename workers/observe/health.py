"""`tenure health`, for container health checks: healthy means that due work gets done, not that a ping answers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from datetime import timedelta

import click
import redis
from sqlalchemy import Connection, text

from models.base.unit_of_work import Database
from models.work import control, row
from tasks.engine.registry import jobs
from workers.celery.beat import TICKED
from workers.services.relay import APPLICATION_NAME
from workers.settings.settings import Settings, settings
from workers.terminal.output import reports_errors

#: Work that waits longer than this while a worker is up is not being done.
PATIENCE = timedelta(minutes=5)
#: A relay looks at least every second, a Beat ticks at least every ten.
SILENCE = timedelta(seconds=60)


def worker(_chosen: Settings, connection: Connection) -> str | None:
    """What is wrong with the worker on this host, or None."""
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this check alone

    answers = app.control.inspect(timeout=5).ping() or {}
    if not any(name.rpartition("@")[2] == socket.gethostname() for name in answers):
        return "no worker on this host answers: look at its log, or start one with celery -A workers.app worker."
    for job in jobs():
        if control.is_paused(connection, job.task, *job.limits):
            continue
        oldest = connection.execute(
            text(f"""
                SELECT now() - min(due_at) FROM tenure.{job.table.__tablename__}
                 WHERE state = 'pending' AND due_at <= now() AND ({job.where})
                HAVING now() - min(due_at) > :patience"""),
            {"patience": PATIENCE},
        ).scalar_one_or_none()
        if oldest and not _progresses(connection, job.table):
            return f"{job.task} has had due work for {oldest.total_seconds():.0f} s and nothing was done meanwhile."
    return None


def _progresses(connection: Connection, table: type[row.Work]) -> bool:
    """A backlog is no illness while it shrinks."""
    return bool(
        connection.execute(
            text(f"SELECT EXISTS (SELECT FROM tenure.{table.__tablename__} WHERE finished_at > now() - :patience)"),
            {"patience": PATIENCE},
        ).scalar_one()
    )


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
