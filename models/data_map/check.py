"""Map and live catalogue compared (T7): by `tenure datamap check`, and again before each export and each purge.

A finding that `stops` means that an export would lack something or a purge would leave something: the job does not
begin. The others make a purge slow, or its figures unsure; `check` fails on them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from models.base.base import SCHEMA
from models.data_map.live_catalogue import Catalogue, Kind, LiveTable
from models.data_map.map import DataMap, Delete, MappedTable, Name, Path, UnmappedTable, in_sql

#: Tenure's own table of Alembic's, which no model stands for.
BOOKKEEPING = Name(SCHEMA, "schema_version")
#: What a purge would come to in a table outside of the map that refers to one in it, by the key's ON DELETE. SET NULL
#: and SET DEFAULT leave a row that no longer says whose it was.
_CONSEQUENCES = {
    "a": "a purge would be refused",
    "r": "a purge would be refused",
    "c": "a purge would delete its rows, which no export held",
}


@dataclass(frozen=True, slots=True)
class Finding:
    database: str
    table: Name
    #: What was found and what to do.
    sentence: str
    stops: bool = True

    def __str__(self) -> str:
        return self.sentence


def compare(mapped: DataMap, databases: Mapping[str, Catalogue]) -> list[Finding]:
    """All that the map and the databases, by their names in it, do not agree on; empty where they do."""
    return [finding for name, live in databases.items() for finding in _compared(mapped, name, live)]


def _compared(whole: DataMap, database: str, live: Catalogue) -> Iterator[Finding]:
    mapped = {each.name: each for each in whole.tables if each.database == database}
    unmapped = {each.name: each for each in whole.unmapped if each.database == database}
    for name in sorted(live.tables.keys() - mapped.keys() - unmapped.keys() - {BOOKKEEPING}):
        yield Finding(database, name, _unclassified(live.tables[name]))
    for name in sorted((mapped.keys() | unmapped.keys()) - live.tables.keys()):
        yield Finding(database, name, f"{name} is in the data map and not in the database: take it out, or correct it")
    for name, each in mapped.items():
        if name in live.tables:
            yield from _table(each, live)
            yield from _referring(each, live, unmapped)


def _unclassified(table: LiveTable) -> str:
    if table.name.schema == SCHEMA:
        return (
            f"{table.name} lies in Tenure's own schema and is in no model of Tenure: move it to a schema of yours, or, "
            "if it is Tenure's, say in its model's __data_map__ what it holds"
        )
    columns = ", ".join(list(table.columns)[:6]) + (", ..." if len(table.columns) > 6 else "")
    kind = "the materialized view " if table.kind is Kind.MATERIALIZED else ""
    return (
        f"{kind}{table.name} ({columns}) is not in the data map: write it into datamap.toml, under [[table]], "
        "[[shared]] or [[ignored]]"
    )


def _table(mapped: MappedTable, live: Catalogue) -> Iterator[Finding]:
    table, name = live.tables[mapped.name], mapped.name

    def found(sentence: str, stops: bool = True) -> Finding:
        return Finding(mapped.database, name, sentence, stops)

    for column in table.columns.keys() - mapped.columns:
        yield found(
            f"{name} has the column {column} ({table.columns[column].type}), of which the data map says nothing: name "
            "it in exported, or in left_out with a reason"
        )
    for column in sorted(mapped.columns - table.columns.keys()):
        yield found(f"{name} has no column {column}, which the data map names: take it out")
    for column in mapped.exported:
        if column in table.columns and not table.columns[column].exportable:
            yield found(
                f"the column {column} of {name} is of the type {table.columns[column].type}, whose text does not say "
                "what it holds (a number of something else, or an amount without its currency): change its type, or "
                "name it in left_out with a reason"
            )
    if table.hidden:
        yield found(
            f"row-level security hides rows of {name} from the role that Tenure connects as: an export would lack them "
            "and a purge leave them. Give the role BYPASSRLS"
        )
    if table.kind in (Kind.MATERIALIZED, Kind.FOREIGN):
        yield found(
            f"{name} is no table but a {'materialized view' if table.kind is Kind.MATERIALIZED else 'foreign table'}: "
            "map what it is made of, and put it under [[ignored]] with the reason"
        )
    elif not table.key and not mapped.key:
        yield found(
            f"{name} has no primary key, so a purge of it can go in no order and in no batches: add one, or name the "
            "columns of a unique index as its key",
            stops=False,
        )
    elif mapped.key and frozenset(mapped.key) not in table.unique:
        yield found(f"the key of {name}, {', '.join(mapped.key)}, has no unique index: name its primary key")
    for path in mapped.paths:
        for sentence, stops in _path(mapped, path, live):
            yield found(sentence, stops)


def _path(mapped: MappedTable, path: Path, live: Catalogue) -> Iterator[tuple[str, bool]]:
    """Each step of a path exists, and is served by an index from the account's end to the row's."""
    here = mapped.name
    for columns, there, referred in [
        *((hop.columns, hop.table, hop.referred) for hop in path.hops),
        ((path.column,), None, ()),
    ]:
        missing = [each for each in columns if each not in live.tables[here].columns]
        if missing:
            yield f'the path "{path}" of {mapped.name} names the column {missing[0]}, which {here} has not', True
            return
        if not live.tables[here].has_index_for(columns):
            yield (
                f"{here} has no index on {', '.join(columns)}, by which the rows of {mapped.name} are found: each "
                f"export and each purge would read {_all_of(live.tables[here])}. Run {_create_index(here, columns)}",
                False,
            )
        if there is None:
            return
        if there not in live.tables:
            yield f'the path "{path}" of {mapped.name} leads over {there}, which is not in the database', True
            return
        missing = [each for each in referred if each not in live.tables[there].columns]
        if missing:
            yield f'the path "{path}" of {mapped.name} names the column {missing[0]}, which {there} has not', True
            return
        here = there


def _referring(mapped: MappedTable, live: Catalogue, unmapped: Mapping[Name, UnmappedTable]) -> Iterator[Finding]:
    """What PostgreSQL does in other tables when a row of this one is deleted."""
    if not isinstance(mapped.purge, Delete):
        return
    for table, key in live.referring.get(mapped.name, ()):
        columns = ", ".join(key.columns)
        if not table.has_index_for(key.columns):
            yield Finding(
                mapped.database,
                table.name,
                f"{table.name} has no index on its foreign key {columns}: for each row of {mapped.name} that a purge "
                f"deletes, PostgreSQL reads {_all_of(table)}, about 1,000 times slower than with one. Run "
                f"{_create_index(table.name, key.columns)}",
                stops=False,
            )
        if table.name in unmapped and key.on_delete in _CONSEQUENCES:
            yield Finding(
                mapped.database,
                table.name,
                f"{table.name} is under [[{type(unmapped[table.name].decision).__name__.lower()}]] in the data map, "
                f"yet its column {columns} refers to {mapped.name}: {_CONSEQUENCES[key.on_delete]}. Map it, or let the "
                "foreign key set null",
            )


def _all_of(table: LiveTable) -> str:
    return f"all {table.rows:,} rows of {table.name}" if table.rows else f"the whole of {table.name}"


def _create_index(table: Name, columns: Iterable[str]) -> str:
    return f"CREATE INDEX CONCURRENTLY ON {table.sql} ({', '.join(map(in_sql, columns))})"
