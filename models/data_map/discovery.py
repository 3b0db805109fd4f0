"""Proposals for `datamap.toml` (T6): what refers to the customers' table, directly or through others, in FK order.

People decide; this finds what there is to be decided. What no foreign key leads to is listed, with what looks as if it
were about people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from models.base.base import SCHEMA
from models.data_map.live_catalogue import Catalogue, ForeignKey, LiveTable
from models.data_map.map import MAIN, AccountKey, Category, DataMap, DataMapError, Hop, MappedTable, Name, Path

#: Columns that a customer's record has no use for, and that open doors.
_CREDENTIAL = re.compile(r"passw|secret|token|otp|salt|api_?key|credential", re.IGNORECASE)
#: Columns that look as if they were about people.
_PERSONAL = re.compile(
    r"e?mail|phone|fax|mobile|address|street|city|zip|postal|birth|gender|first_?name|last_?name|full_?name|surname|"
    r"user|customer|client|account|person|contact|ip_|_ip$|^ip$|iban|card|ssn|passport",
    re.IGNORECASE,
)
_CREDENTIAL_REASON = "a credential, which opens something and says nothing about the person"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found in one database."""

    database: str
    #: Those that foreign keys lead to, in foreign-key order, parents first.
    proposed: Sequence[MappedTable]
    #: The others, which somebody must decide on.
    undecided: Sequence[LiveTable]


def discover(
    live: Catalogue, customers: Name, ref: str | None, *, database: str = MAIN, known: DataMap | None = None
) -> Discovery:
    """Walk the foreign keys from the table `customers`, whose column `ref` holds the application's key of a customer.

    What `known` already classifies is not proposed again. Raises DataMapError where there is no such table or column.
    """
    root = live.tables.get(customers)
    if root is None:
        similar = [str(each) for each in live.tables if each.table == customers.table] or ["none of that name"]
        raise DataMapError(f"there is no table {customers} in the database; there is {', '.join(similar)}")
    column = ref or (root.key[0] if len(root.key) == 1 else None)
    if column is None:
        raise DataMapError(
            f"{customers} has {'no primary key' if not root.key else 'a primary key of several columns'}: say which "
            "column holds the key that is ref in tenure.accounts, by --ref"
        )
    if column not in root.columns:
        raise DataMapError(f"{customers} has no column {column}; it has {', '.join(root.columns)}")
    paths = _paths(live, root, column)
    others = {name for name in live.tables if name.schema != SCHEMA}
    if known is not None:
        others -= {each.name for each in known.tables if each.database == database}
        others -= {each.name for each in known.unmapped if each.database == database}
    return Discovery(
        database,
        [
            _proposal(live.tables[name], paths[name], root, database)
            for name in live.in_foreign_key_order(paths.keys() & others)
        ],
        [live.tables[name] for name in sorted(others - paths.keys())],
    )


def _paths(live: Catalogue, root: LiveTable, ref: str) -> dict[Name, list[Path]]:
    """The shortest path of each table that leads to the customers; where its first column may be empty, others too."""
    shortest: dict[Name, Path] = {root.name: Path((), ref, AccountKey.REF)}
    waiting = [root.name]
    while waiting:
        # All at one distance before those further away.
        found: dict[Name, list[tuple[bool, str, Path]]] = {}
        for name in waiting:
            for table, key in live.referring.get(name, ()):
                if table.name not in shortest:
                    path = _longer(shortest[name], key, root.name, ref)
                    found.setdefault(table.name, []).append((table.nullable(key.columns), key.name, path))
        for name, candidates in found.items():
            # Rather a column that is never empty; then by name, so that the proposal is always the same.
            shortest[name] = min(candidates, key=lambda each: each[:2])[2]
        waiting = list(found)
    return {
        name: [path, *_alternatives(live.tables[name], path, shortest, ref)] if name != root.name else [path]
        for name, path in shortest.items()
    }


def _longer(path: Path, key: ForeignKey, root: Name, ref: str) -> Path:
    if key.referred == root and key.referred_columns == (ref,):
        return Path((), key.columns[0], AccountKey.REF)
    return Path((Hop(key.columns, key.referred, key.referred_columns), *path.hops), path.column, path.holds)


def _alternatives(table: LiveTable, chosen: Path, shortest: dict[Name, Path], ref: str) -> Iterator[Path]:
    """Where the first column of the chosen path may be empty, the paths over other foreign keys."""
    if not table.nullable(chosen.hops[0].columns if chosen.hops else (chosen.column,)):
        return
    root = next(iter(shortest))
    for key in table.foreign_keys:
        beyond = shortest.get(key.referred)
        # Not through itself: of a row that only refers to its like, nobody is found.
        if beyond is None or key.referred == table.name or any(hop.table == table.name for hop in beyond.hops):
            continue
        path = _longer(beyond, key, root, ref)
        if path != chosen:
            yield path


def _proposal(table: LiveTable, paths: Sequence[Path], root: LiveTable, database: str) -> MappedTable:
    left_out = {
        each.name: _CREDENTIAL_REASON
        if _CREDENTIAL.search(each.name)
        else f"of the type {each.type}, whose text does not say what it holds"
        for each in table.columns.values()
        if _CREDENTIAL.search(each.name) or not each.exportable
    }
    return MappedTable(
        name=table.name,
        category=Category.SETUP if table is root else Category.SUBMITTED,
        paths=tuple(paths),
        key=table.key,
        exported=tuple(each for each in table.columns if each not in left_out),
        left_out=left_out,
        database=database,
    )


def as_toml(found: Discovery) -> str:
    """What one saves as `datamap.toml`, and then edits: nothing that is undecided passes `tenure datamap check`."""
    blocks = [*(_table_block(each) for each in found.proposed)]
    if found.undecided:
        blocks.append("\n".join(_undecided_block(found)))
    return "\n\n".join(blocks) + "\n"


def _table_block(mapped: MappedTable) -> str:
    lines = ["[[table]]", f"name = {_string(str(mapped.name))}"]
    if mapped.database != MAIN:
        lines.append(f"database = {_string(mapped.database)}")
    lines += [
        f"category = {_string(mapped.category)}",
        f"paths = {_list(map(str, mapped.paths))}",
        f"key = {_list(mapped.key)}",
        f"exported = {_list(mapped.exported)}",
    ]
    if mapped.left_out:
        lines += ["", "[table.left_out]", *(f"{_key(name)} = {_string(why)}" for name, why in mapped.left_out.items())]
    return "\n".join(lines)


def _undecided_block(found: Discovery) -> Iterator[str]:
    yield "# No foreign key leads from these to a customer. Move each to [[shared]] (nothing about customers) or"
    yield "# [[ignored]], both with a reason; or write a [[table]] for it, with the path that only you know."
    yield "[[undecided]]"
    if found.database != MAIN:
        yield f"database = {_string(found.database)}"
    yield "tables = ["
    for table in found.undecided:
        personal = [each for each in table.columns if _PERSONAL.search(each)]
        hint = f"  # looks personal: {', '.join(personal)}" if personal else ""
        yield f"  {_string(str(table.name))},{hint}"
    yield "]"


def _list(values: Iterable[str]) -> str:
    items = [_string(each) for each in values]
    line = f"[{', '.join(items)}]"
    if len(line) <= 100:
        return line
    return "[\n" + "".join(f"  {each},\n" for each in items) + "]"


def _string(value: str) -> str:
    """A basic string of TOML is one of JSON but for DEL, which JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)
