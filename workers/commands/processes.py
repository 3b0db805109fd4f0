"""Commands that start a process or ask for work: migrate, relay, metrics, download-page, request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from models.base.unit_of_work import Database
from models.schema import migrations
from workers.celery import logs
from workers.settings.settings import Mode, Settings, settings
from workers.terminal.output import in_words


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
