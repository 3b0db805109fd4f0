"""In which order the tables of a database are purged, and what forbids to begin (T7, T19).

A table goes before those that it refers to, and before those over which its rows are found. Tables that refer to each
other in a circle go together, in one statement, at whose end PostgreSQL looks at the foreign keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from models.base.base import SCHEMA
from models.data_map import check
from models.data_map.live_catalogue import Catalogue, ForeignKey
from models.data_map.map import MAIN, DataMap, Delete, Hop, MappedTable, Name, Path, Redact

#: What stays as a tombstone, and goes last.
ACCOUNTS = Name(SCHEMA, "accounts")
#: Foreign keys under which a row that stays forbids the deletion of the one that it refers to, or goes with it.
BINDING = frozenset("arc")

Group = Sequence[MappedTable]


def findings(mapped: DataMap, databases: Mapping[str, Catalogue]) -> list[str]:
    """Why a purge must not begin: all that the map and the databases do not agree on, in sentences (T7)."""
    return [str(each) for each in check.compare(mapped, databases) if each.stops] + [
        sentence for name, live in databases.items() for sentence in _torn(mapped, name, live)
    ]


def _torn(mapped: DataMap, database: str, live: Catalogue) -> Iterator[str]:
    """What stays and refers to what goes."""
    tables = {each.name: each for each in mapped.tables if each.database == database}
    for each in tables.values():
        if not stays(each) or each.name not in live.tables:
            continue
        for key in live.tables[each.name].foreign_keys:
            parent = tables.get(key.referred)
            if parent is not None and not stays(parent) and key.on_delete in BINDING:
                yield (
                    f"rows of {each.name} stay when an account is purged, and its column {', '.join(key.columns)} "
                    f"refers to {parent.name}, whose rows go: let that table be retained or redacted, too"
                )
        if each.retention is not None:
            yield from _lost(each, tables)


def _lost(table: MappedTable, tables: Mapping[Name, MappedTable]) -> Iterator[str]:
    """What would make it impossible to find retained rows when their time is over."""
    for path in table.paths:
        # Of each table, the columns by which it is gone through: to the next one, and from the one before.
        names = [table.name, *(hop.table for hop in path.hops)]
        leading = [*(hop.columns for hop in path.hops), (path.column,)]
        needed = {name: set(columns) for name, columns in zip(names, leading, strict=True)}
        for hop in path.hops:
            needed[hop.table] |= set(hop.referred)
        for name, columns in needed.items():
            on_the_way = tables.get(name)
            if on_the_way is None:
                continue
            if not stays(on_the_way):
                yield f"rows of {table.name} are kept and found over {name}, whose rows go: let these be kept, too"
                continue
            blanked = dict(on_the_way.retention.redacted) if on_the_way.retention else {}
            if isinstance(on_the_way.purge, Redact):
                blanked |= on_the_way.purge.columns
            for column in sorted(columns & blanked.keys()):
                yield f"rows of {table.name} are kept and found by {column} of {name}, which is redacted: leave it"


def stays(table: MappedTable) -> bool:
    """Whether its rows are still there after a purge: redacted, or retained for now."""
    return table.retention is not None or not isinstance(table.purge, Delete)


def groups(mapped: DataMap, database: str, live: Catalogue) -> list[Group]:
    """The tables of one database in the order of their purge; those of a circle are in one group."""
    tables = {each.name: each for each in mapped.tables if each.database == database}
    before = {name: _later(each, live, tables) for name, each in tables.items()}
    return [[tables[name] for name in ring] for ring in reversed(_rings(before))]


def _later(table: MappedTable, live: Catalogue, tables: Mapping[Name, MappedTable]) -> list[Name]:
    """The tables that have to be there until `table` is purged."""
    found: dict[Name, None] = {}
    if not stays(table) and table.name in live.tables:
        found |= dict.fromkeys(key.referred for key in live.tables[table.name].foreign_keys)
    for path in table.paths:
        found |= dict.fromkeys(hop.table for hop in path.hops)
    if table.database == MAIN:
        found[ACCOUNTS] = None
    found.pop(table.name, None)
    return sorted(name for name in found if name in tables)


def _rings(edges: Mapping[Name, Sequence[Name]]) -> list[list[Name]]:
    """The strongly connected parts, each after all that it leads to (Tarjan)."""
    index: dict[Name, int] = {}
    low: dict[Name, int] = {}
    stack: list[Name] = []
    found: list[list[Name]] = []

    def visit(name: Name) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for each in sorted(edges):
        if each not in index:
            visit(each)
    return found


def refers_to_itself(table: MappedTable, live: Catalogue) -> list[ForeignKey]:
    """The foreign keys that lead from the table to itself."""
    return [key for key in live.tables[table.name].foreign_keys if key.referred == table.name]


def doubtful(mapped: DataMap, database: str, live: Catalogue) -> Iterator[tuple[MappedTable, ForeignKey, MappedTable]]:
    """Foreign keys by which a row of another account could refer to one that is deleted: these are looked at.

    Not those along which every path of the parent goes on: whose parent is the account's, is the account's.
    """
    tables = {each.name: each for each in mapped.tables if each.database == database}
    for child in tables.values():
        if child.name not in live.tables:
            continue
        for key in live.tables[child.name].foreign_keys:
            parent = tables.get(key.referred)
            if parent is None or stays(parent) or key.on_delete not in BINDING:
                continue
            if not _covered(child.paths, key, parent):
                yield child, key, parent


def _covered(paths: Iterable[Path], key: ForeignKey, parent: MappedTable) -> bool:
    hop = Hop(key.columns, key.referred, key.referred_columns)
    known = set(paths)
    return all(Path((hop, *path.hops), path.column, path.holds) in known for path in parent.paths)
