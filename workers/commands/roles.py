"""`tenure roles`: what the database's roles may do, printed or granted (W22)."""

from __future__ import annotations

import sys

import click
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from models.schema import rights
from workers.settings.settings import settings
from workers.terminal.output import counted, in_words


def grant(worker: str | None, web: str | None, apply: bool) -> int:
    with in_words():
        database = Database(settings().database_url, pool_size=1)
        try:
            with database.connection() as connection:
                wanted = rights.statements(connection, worker=worker, web=web)
                if not apply:
                    click.echo("\n".join(f"{each};" for each in wanted))
                    return 0
                connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                for each in wanted:
                    connection.connection.cursor().execute(each.encode())
        except rights.RightsError as error:
            click.echo(f"tenure: {error}.", err=True)
            sys.exit(2)
        except DBAPIError as error:
            click.echo(f"tenure: the rights could not be granted, and none was: {outage_reason(error)}", err=True)
            sys.exit(1)
        finally:
            database.engine.dispose()
    granted = [f"{name} may {may}" for name, may in ((worker, "work"), (web, "ask for work")) if name]
    click.echo(f"{' and '.join(granted)}: {counted(len(wanted), 'grant')}.")
    return 0
