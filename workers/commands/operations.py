"""What the operator's commands do, once click has read the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage, outage_reason
from models.schema import migrations
from workers.celery import logs
from workers.settings.settings import Mode, Settings, SettingsError, settings


@contextmanager
def in_words() -> Iterator[None]:
    """End a command with one clear line, not a traceback, where settings or PostgreSQL are the trouble."""
    try:
        yield
    except SettingsError as error:
        click.echo(f"tenure: {error}", err=True)
        sys.exit(2)
    except DBAPIError as error:
        if not is_outage(error):
            raise
        click.echo(f"tenure: PostgreSQL (TENURE_DATABASE_URL) cannot be used: {outage_reason(error)}", err=True)
        sys.exit(1)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`, `28 countries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_json(value: Any, *, lines: bool = False) -> None:
    """For `--json`: what JSON has no type for, such as a date, is written as text. `lines`: one of several, each alone
    on its line."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=str)
    click.echo(encoded.decode() if lines else msgspec.json.format(encoded, indent=2))


def migrate() -> None:
    from sqlalchemy.orm import Session

    from tasks.client.requests import publish

    with in_words():
        database = Database(settings().database_url)
        with database.connection() as connection:
            migrations.upgrade(connection)
            with Session(connection, join_transaction_mode="rollback_only") as session:
                publish(session)
                session.flush()
        click.echo("The database is at the newest schema.")


def relay() -> None:
    with in_words():
        chosen = _logging()
        from tasks.engine.registry import jobs
        from workers.app import app
        from workers.services import relay
        from workers.wiring import bootstrap

        relay.main(bootstrap.ports(chosen, app), jobs())


def metrics() -> int:
    with in_words():
        chosen = _logging()
        from workers.observe import metrics

        return metrics.serve(chosen)


def download_page() -> int:
    with in_words():
        chosen = _logging()
        from workers.app import app
        from workers.services import download_page
        from workers.wiring import bootstrap

        return download_page.serve(chosen, bootstrap.ports(chosen, app))


def _logging() -> Settings:
    """The settings, with logs as they say."""
    chosen = settings()
    log_format = chosen.log_format or ("json" if chosen.mode is Mode.PRODUCTION else "text")
    logs.configure(json=log_format == "json")
    return chosen


def request(kind: str, arguments: Sequence[str], dedupe_key: str | None) -> int:
    from tasks.client.requests import RequestRefused, ask

    args: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            click.echo(f"tenure: {argument!r} is not an argument: write NAME=VALUE, such as account=acme.", err=True)
            return 2
        args[name] = value
    with in_words():
        database = Database(settings().database_url)
        try:
            with database.transaction() as session:
                click.echo(ask(session, kind, args, dedupe_key=dedupe_key, source="operator"))
        except RequestRefused as refusal:
            click.echo(f"tenure: {refusal}", err=True)
            return 2
    return 0
