"""`tenure roles`: what the database's roles may do, printed or granted (W22)."""

from __future__ import annotations

import click
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from models.schema import rights
from workers.settings.settings import settings
from workers.terminal.output import CommandFailed, WrongUse, counted, reports_errors


@click.command()
@click.option("--worker", metavar="ROLE", help="The role of workers, relay and operators' commands.")
@click.option("--web", metavar="ROLE", help="The role of the web tier, which can request work and read none of it.")
@click.option("--apply", is_flag=True, help="Grant the rights, all or none, instead of printing the statements.")
@reports_errors
def roles(worker: str | None, web: str | None, apply: bool) -> None:
    """Run it after each migration, as the owner of the schema."""
    database = Database(settings().database_url, pool_size=1)
    try:
        with database.connection() as connection:
            wanted = rights.statements(connection, worker=worker, web=web)
            if not apply:
                click.echo("\n".join(f"{each};" for each in wanted))
                return
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            for each in wanted:
                connection.connection.cursor().execute(each.encode())
    except rights.RightsError as error:
        raise WrongUse(f"{error}.") from error
    except DBAPIError as error:
        raise CommandFailed(f"the rights could not be granted, and none was: {outage_reason(error)}") from error
    finally:
        database.engine.dispose()
    granted = [f"{name} may {may}" for name, may in ((worker, "work"), (web, "ask for work")) if name]
    click.echo(f"{' and '.join(granted)}: {counted(len(wanted), 'grant')}.")
