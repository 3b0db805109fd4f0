"""What a PostgreSQL database really holds: tables, columns, keys, indexes, as its own catalogue says (T6, T7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, text

from models.data_map.map import Name


class Kind(StrEnum):
    TABLE = "r"
    PARTITIONED = "p"
    MATERIALIZED = "m"
    FOREIGN = "f"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    #: As PostgreSQL writes it: `character varying(40)`.
    type: str
    nullable: bool
    #: Whether its text says what it holds: not so of a large object's number, or of money without its currency.
    exportable: bool


@dataclass(frozen=True, slots=True)
class ForeignKey:
    name: str
    columns: tuple[str, ...]
    referred: Name
    referred_columns: tuple[str, ...]
    #: As `pg_constraint.confdeltype`: `a` no action, `r` restrict, `c` cascade, `n` set null, `d` set default.
    on_delete: str


@dataclass(frozen=True)
class LiveTable:
    name: Name
    kind: Kind
    columns: Mapping[str, Column]
    key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    #: The columns of each index that serves any equality on them, in its order.
    indexes: tuple[tuple[str, ...], ...]
    unique: frozenset[frozenset[str]]
    #: As last analysed.
    rows: int
    #: Row-level security hides rows from the role that looked.
    hidden: bool

    def has_index_for(self, columns: Iterable[str]) -> bool:
        """Whether rows with given values in `columns` are found without reading the table."""
        wanted = set(columns)
        return any(set(index[: len(wanted)]) == wanted for index in self.indexes)

    def nullable(self, columns: Iterable[str]) -> bool:
        return any(self.columns[each].nullable for each in columns)


@dataclass(frozen=True)
class Catalogue:
    """All tables of a database but for PostgreSQL's own and those of extensions; partitions belong to their parent."""

    tables: Mapping[Name, LiveTable]

    @cached_property
    def referring(self) -> Mapping[Name, list[tuple[LiveTable, ForeignKey]]]:
        """Who refers to a table."""
        found: dict[Name, list[tuple[LiveTable, ForeignKey]]] = {}
        for each in self.tables.values():
            for key in each.foreign_keys:
                found.setdefault(key.referred, []).append((each, key))
        return found

    def in_foreign_key_order(self, names: Iterable[Name]) -> list[Name]:
        """Parents first. Of tables that refer to each other in a circle, one comes first all the same."""
        wanted = dict.fromkeys(sorted(names))
        placed: dict[Name, None] = {}

        def place(name: Name, above: frozenset[Name]) -> None:
            if name in placed or name in above or name not in wanted:
                return
            for key in self.tables[name].foreign_keys if name in self.tables else ():
                place(key.referred, above | {name})
            placed[name] = None

        for each in wanted:
            place(each, frozenset())
        return list(placed)


def read(connection: Connection) -> Catalogue:
    """Read the catalogue of the database that the connection leads to; four queries, whatever its size."""
    columns: dict[int, dict[str, Column]] = {}
    for row in connection.execute(text(_COLUMNS)):
        columns.setdefault(row.table_oid, {})[row.name] = Column(row.name, row.type, row.nullable, row.exportable)
    keys: dict[int, list[ForeignKey]] = {}
    for row in connection.execute(text(_FOREIGN_KEYS)):
        keys.setdefault(row.table_oid, []).append(
            ForeignKey(row.name, tuple(row.columns), Name(*row.referred), tuple(row.referred_columns), row.on_delete)
        )
    indexes: dict[int, list[Any]] = {}
    for row in connection.execute(text(_INDEXES)):
        indexes.setdefault(row.table_oid, []).append(row)
    return Catalogue(
        {
            Name(row.schema, row.name): LiveTable(
                name=Name(row.schema, row.name),
                kind=Kind(row.kind),
                columns=columns.get(row.oid, {}),
                key=next((tuple(each.columns) for each in indexes.get(row.oid, ()) if each.primary), ()),
                foreign_keys=tuple(keys.get(row.oid, ())),
                indexes=tuple(tuple(each.columns) for each in indexes.get(row.oid, ()) if each.serves),
                unique=frozenset(frozenset(each.columns) for each in indexes.get(row.oid, ()) if each.unique),
                rows=row.rows,
                hidden=row.hidden,
            )
            for row in connection.execute(text(_TABLES))
        }
    )


_OURS_TO_SEE = """
    relkind IN ('r', 'p', 'm', 'f') AND NOT relispartition AND relpersistence <> 't'
    AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
    AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""
_FROM = "pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"

#: Of a partitioned table the estimates are those of its partitions.
_TABLES = f"""
    SELECT pg_class.oid, nspname AS schema, relname AS name, relkind AS kind,
           row_security_active(pg_class.oid) AS hidden,
           (SELECT coalesce(sum(greatest(leaf.reltuples, 0)), 0)::bigint FROM pg_partition_tree(pg_class.oid) AS part
              JOIN pg_class AS leaf ON leaf.oid = part.relid WHERE part.isleaf)
           + CASE WHEN relkind IN ('m', 'f') THEN greatest(reltuples, 0)::bigint ELSE 0 END AS rows
      FROM {_FROM} WHERE {_OURS_TO_SEE} ORDER BY nspname, relname"""

_COLUMNS = f"""
    WITH RECURSIVE part (column_type, type) AS (
        SELECT oid, oid FROM pg_type
        UNION
        -- What an array, a domain, a range or a row type is made of.
        SELECT part.column_type, inner_type.oid
          FROM part JOIN pg_type AS outer_type ON outer_type.oid = part.type
          CROSS JOIN LATERAL (
              SELECT nullif(outer_type.typelem, 0) WHERE outer_type.typcategory = 'A'
              UNION ALL SELECT nullif(outer_type.typbasetype, 0)
              UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = outer_type.oid
              UNION ALL SELECT atttypid FROM pg_attribute
                         WHERE attrelid = outer_type.typrelid AND outer_type.typrelid <> 0 AND attnum > 0
                           AND outer_type.typtype = 'c' AND NOT attisdropped
          ) AS inner_type (oid)
         WHERE inner_type.oid IS NOT NULL),
    used AS (
        SELECT attrelid AS table_oid, attname AS name, attnum, atttypid, atttypmod, attnotnull
          FROM pg_attribute JOIN ({_FROM}) ON pg_class.oid = attrelid
         WHERE attnum > 0 AND NOT attisdropped AND {_OURS_TO_SEE}),
    speechless AS (
        SELECT DISTINCT column_type FROM part JOIN pg_type ON pg_type.oid = part.type
         WHERE typnamespace = 'pg_catalog'::regnamespace
           AND (typname IN ('oid', 'money', 'xid', 'xid8', 'cid', 'tid') OR starts_with(typname, 'reg')
                OR typtype = 'p'))
    SELECT table_oid, name, format_type(atttypid, atttypmod) AS type, NOT attnotnull AS nullable,
           atttypid NOT IN (SELECT column_type FROM speechless) AS exportable
      FROM used ORDER BY table_oid, attnum"""

_FOREIGN_KEYS = f"""
    SELECT conrelid AS table_oid, conname AS name, confdeltype AS on_delete,
           (SELECT array_agg(attname::text ORDER BY n) FROM unnest(conkey) WITH ORDINALITY AS k (number, n)
              JOIN pg_attribute ON attrelid = conrelid AND attnum = number) AS columns,
           (SELECT ARRAY[nspname::text, relname::text] FROM {_FROM} WHERE pg_class.oid = confrelid) AS referred,
           (SELECT array_agg(attname::text ORDER BY n) FROM unnest(confkey) WITH ORDINALITY AS k (number, n)
              JOIN pg_attribute ON attrelid = confrelid AND attnum = number) AS referred_columns
      FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY conrelid, conname"""

#: A partial index serves where its condition is that the column is not null, which an equality implies.
_INDEXES = f"""
    SELECT indrelid AS table_oid, indisprimary AS primary,
           indisunique AND indpred IS NULL AND indexprs IS NULL AND indisvalid AS "unique",
           indisvalid AND indexprs IS NULL AND amname IN ('btree', 'hash')
           AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) = format('(%I IS NOT NULL)', (
                    SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0]))) AS serves,
           (SELECT array_agg(attname::text ORDER BY n) FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, n)
              JOIN pg_attribute ON attrelid = indrelid AND attnum = number WHERE n <= indnkeyatts) AS columns
      FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
     WHERE indexprs IS NULL AND EXISTS (
         SELECT FROM {_FROM} WHERE pg_class.oid = indrelid AND {_OURS_TO_SEE})
     ORDER BY indrelid, indexrelid"""
