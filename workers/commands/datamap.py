"""`tenure datamap`: propose, check and fence the data map (T6, T7, T9).

Exit codes: 0 fine, 1 map and databases disagree, 2 wrong use, or a database cannot be used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, DBAPIError

from models.base.base import Base
from models.base.unit_of_work import Database, outage_reason
from models.data_map import check as data_map_check
from models.data_map import discovery, live_catalogue
from models.data_map import fence as data_map_fence
from models.data_map import file as data_map_file
from models.data_map.file import CompanyMap
from models.data_map.live_catalogue import Catalogue
from models.data_map.map import MAIN, DataMapError, own_map, table_name
from workers.settings.settings import Settings, settings
from workers.terminal.options import as_json
from workers.terminal.output import WrongUse, print_json, reports_errors

datamap = click.Group("datamap")

map_file = click.option(
    "--map",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The company's map; by default the one that TENURE_DATAMAP names, else datamap.toml in this folder.",
)


@contextmanager
def _sentences() -> Iterator[None]:
    """Report a map or a database that cannot be used."""
    try:
        yield
    except DataMapError as error:
        raise WrongUse(f"{error}.") from error


@datamap.command()
@click.option("--customers", required=True, metavar="SCHEMA.TABLE", help="The table of your customers.")
@click.option(
    "--ref", metavar="COLUMN", help="The column of that table that is ref in Tenure; by default its primary key."
)
@click.option("--database", default="main", show_default=True, help="The database to read, by its name in the map.")
@map_file
@reports_errors
@_sentences()
def discover(customers: str, ref: str | None, database: str, file: Path | None) -> None:
    """Print entries for datamap.toml, found by foreign keys.

    The search begins at the table of your customers.
    """
    company = _company_map(file)
    live = _catalogue(database, company, settings())
    found = discovery.discover(live, table_name(customers), ref, database=database, known=company.map)
    if not found.proposed and not found.undecided:
        click.echo("Every table is in the data map already: there is nothing to propose.", err=True)
        return
    click.echo(discovery.as_toml(found), nl=False)
    click.echo(
        f"{len(found.proposed)} tables belong to customers, {len(found.undecided)} are to be decided. Save this as "
        "datamap.toml, read it as if you had to answer for it, then run tenure datamap check.",
        err=True,
    )


@datamap.command()
@map_file
@as_json
@reports_errors
@_sentences()
def check(file: Path | None, json: bool) -> int:
    """Compare the map with the live databases.

    Exits with 1 if they disagree or an index is missing.
    """
    company = _company_map(file)
    whole = own_map(Base) + company.map
    live = {name: _catalogue(name, company, settings()) for name in (MAIN, *company.databases)}
    findings = data_map_check.compare(whole, live)
    if json:
        print_json([_as_dict(each) for each in findings])
        return int(bool(findings))
    for each in findings:
        where = "" if each.database == MAIN else f"[{each.database}] "
        click.echo(f"{'✗' if each.stops else '!'} {where}{each.sentence}.")
    if findings:
        stopping = sum(each.stops for each in findings)
        click.echo(
            f"\n{len(findings)} findings; {stopping} of them (✗) would stop each export and each purge, "
            f"{len(findings) - stopping} (!) would make them slow. For tables, tenure datamap discover proposes "
            "what to write."
        )
    else:
        columns = sum(len(each.columns) for each in whole.tables)
        click.echo(
            f"Data map and {'database agree' if len(live) == 1 else f'{len(live)} databases agree'}: "
            f"{len(whole.tables)} tables with {columns} columns belong to customers, {len(whole.unmapped)} do not."
        )
    return int(bool(findings))


@datamap.command()
@click.option("--apply", is_flag=True, help="Create the triggers, all or none, instead of printing them.")
@map_file
@reports_errors
@_sentences()
def fence(apply: bool, file: Path | None) -> None:
    """Print triggers that fence your tables.

    With them, your tables refuse new rows of a customer whose contract has ended.
    """
    company = _company_map(file)
    statements = data_map_fence.statements(company.map)
    if not statements:
        click.echo("datamap.toml maps no table of this database: there is nothing to fence.", err=True)
        return
    if not apply:
        click.echo("\n".join(f"{each};" for each in statements))
        return
    with _connected(settings().database_url, "PostgreSQL (TENURE_DATABASE_URL)") as database:
        try:
            with database.connection() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                for each in statements:
                    connection.connection.cursor().execute(each.encode())
        except DBAPIError as error:
            raise DataMapError(f"the fence could not be put up, and nothing was changed: {_reason(error)}") from None
    click.echo(f"{len({each.name for each in company.map.tables if each.database == MAIN})} tables are fenced.")


def _company_map(file: Path | None) -> CompanyMap:
    """The file that is named, else the one that the settings name, else `datamap.toml` here, else none."""
    chosen = settings().datamap
    named = file or (Path(chosen) if chosen else None)
    if named is None:
        here = Path("datamap.toml")
        return data_map_file.load(here) if here.exists() else data_map_file.NONE
    return data_map_file.load(named)


def _catalogue(database: str, company: CompanyMap, chosen: Settings) -> Catalogue:
    if database == MAIN:
        address, called = chosen.database_url, "PostgreSQL (TENURE_DATABASE_URL)"
    else:
        variable = company.databases.get(database)
        if variable is None:
            raise DataMapError(
                f'there is no database "{database}" in datamap.toml: write [databases.{database}] with '
                'address_from = "THE_VARIABLE_WITH_ITS_ADDRESS"'
            )
        if not os.environ.get(variable):
            raise DataMapError(f'{variable}, which names the database "{database}", is not set')
        address, called = os.environ[variable], f'the database "{database}" ({variable})'
    with _connected(address, called) as opened, opened.connection() as connection:
        try:
            return live_catalogue.read(connection)
        except DBAPIError as error:
            raise DataMapError(f"{called} cannot be read: {_reason(error)}") from None


@contextmanager
def _connected(address: str, called: str) -> Iterator[Database]:
    try:
        opened = Database(address, pool_size=1)
    except (ArgumentError, ValueError):
        raise DataMapError(f"{called} has no address of PostgreSQL: write postgresql://user@host/name") from None
    try:
        yield opened
    except DBAPIError as error:
        raise DataMapError(f"{called} cannot be used: {_reason(error)}") from None
    finally:
        opened.engine.dispose()


def _reason(error: DBAPIError) -> str:
    return outage_reason(error).rstrip(".")


def _as_dict(finding: data_map_check.Finding) -> Mapping[str, str | bool]:
    return {
        "database": finding.database,
        "table": str(finding.table),
        "sentence": finding.sentence,
        "stops": finding.stops,
    }
