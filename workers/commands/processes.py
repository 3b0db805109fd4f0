"""Commands that start a process, or the local stack; that migrate; and that request work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workers.celery import logs
from workers.settings.settings import Mode, Settings, settings
from workers.terminal.output import WrongUse, reports_errors, wrong_use

#: Where the local stack keeps its data, logs and addresses.
VAR = Path("var")

local_folder = click.option(
    "--var",
    type=click.Path(path_type=Path, file_okay=False),
    default=VAR,
    show_default=True,
    help="The local stack's folder, with its data, logs and addresses.",
)


@click.command()
@local_folder
@click.option("--detach", is_flag=True, help="Return when everything is up, and leave it running.")
@reports_errors
def up(var: Path, detach: bool) -> int:
    """For every address that the environment does not set (TENURE_DATABASE_URL, TENURE_BROKER_URL, TENURE_S3_ENDPOINT,
    TENURE_MAIL_URL) a real server is started from a wheel. All addresses are written to var/tenure.env.
    """
    from workers.local import supervisor

    return supervisor.up(var, detach)


@click.command()
@local_folder
@click.option("--purge", is_flag=True, help="Remove the data, too.")
@reports_errors
def down(var: Path, purge: bool) -> int:
    """Nothing else is stopped. The data are kept for the next `tenure up`."""
    from workers.local import supervisor

    return supervisor.down(var, purge)


@click.command()
@local_folder
@click.option("--accounts", default=300, show_default=True, type=click.IntRange(1, 100_000), help="How many customers.")
@click.option("--keep", is_flag=True, help="Leave the stack running afterwards.")
@reports_errors
def demo(var: Path, accounts: int, keep: bool) -> int:
    """You watch its background work: statements, invoices, payments, reminders, and a customer who leaves."""
    from workers.demo import show

    return show.main(var, accounts=accounts, keep=keep)


def _require_postgresql() -> None:
    """Raise WrongUse if the database's server is too old."""
    from models.base.server_version import too_old

    if (trouble := too_old(settings().database_url)) is not None:
        raise WrongUse(trouble)


@click.command()
@reports_errors
def migrate() -> None:
    """Others may use the database meanwhile. Started again after an error, it goes on from there."""
    from models.base.unit_of_work import Database
    from models.schema import migrations
    from tasks.client.requests import publish

    _require_postgresql()
    database = Database(settings().database_url)
    try:
        migrations.migrate(database, publish)
    except migrations.SchemaError as error:
        raise WrongUse(str(error)) from error
    finally:
        database.engine.dispose()
    click.echo("The database is at the newest schema.")


@click.command()
@reports_errors
def relay() -> None:
    """A worker wakes within a fraction of a second. Any number of relays may run."""
    chosen = _logging()
    _require_postgresql()
    from tasks.engine.registry import jobs
    from workers.app import app
    from workers.services import relay
    from workers.wiring import bootstrap

    relay.main(bootstrap.ports(chosen, app), jobs())


@click.command()
@reports_errors
def metrics() -> int:
    """The address is TENURE_METRICS_ADDRESS and TENURE_METRICS_PORT. Any number may run."""
    chosen = _logging()
    from workers.observe import metrics

    return metrics.serve(chosen)


@click.command("download-page")
@reports_errors
def download_page() -> int:
    """The address is TENURE_DOWNLOAD_ADDRESS and TENURE_DOWNLOAD_PORT. Any number may run."""
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


@click.command()
@click.argument("kind")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--dedupe-key", help="Requests with the same key are made once.")
@reports_errors
def request(kind: str, arguments: tuple[str, ...], dedupe_key: str | None) -> None:
    """For example: tenure request statements.send account=acme"""
    from models.base.unit_of_work import Database
    from tasks.client.requests import RequestRefused, ask

    args: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise WrongUse(f"{argument!r} is not an argument: write NAME=VALUE, such as account=acme.")
        args[name] = value
    database = Database(settings().database_url)
    with wrong_use(RequestRefused), database.transaction() as session:
        click.echo(ask(session, kind, args, dedupe_key=dedupe_key, source="operator"))
