"""How a table becomes CSV: what PostgreSQL is asked to write for each type of column (T13).

PostgreSQL writes the CSV by itself, by COPY, which is quick and exact: NULL is empty and the empty text is `""`. Where
its own way of writing a type is not what the customer was promised, the SELECT says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import psycopg
from psycopg import sql

from models.data_map.map import AccountKeys, MappedTable, belongs, written_out
from tasks.export.guard import guard, guarded_sql
from tasks.failures import Permanent


class Form(StrEnum):
    """What a cell holds."""

    TEXT = "text"
    #: Exact, in decimal digits; `NaN`, `Infinity` and `-Infinity` where PostgreSQL has these.
    NUMBER = "number"
    BOOLEAN = "boolean"
    #: ISO 8601 in UTC, such as `2026-11-22T10:00:00.5+00:00`.
    INSTANT = "instant"
    #: ISO 8601 without a zone, where the column has none.
    LOCAL_TIME = "local time"
    BASE64 = "base64"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the CSV: its name, its type as PostgreSQL names it, and how its cells are written."""

    name: str
    type: str
    form: Form
    guarded: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as it is exported."""

    columns: Sequence[Column]
    select: str

    @property
    def header(self) -> bytes:
        names = (guard(column.name).replace('"', '""') for column in self.columns)
        return ",".join(f'"{name}"' for name in names).encode() + b"\r\n"


#: Sees to it that values are written the same whatever the database's own settings are, that no policy hides rows, and
#: that no time limit ends a long export. A setting that an older PostgreSQL does not know is left out.
SESSION: Final = """
    SELECT set_config(given.name, given.value, true)
      FROM (VALUES ('TimeZone', 'UTC'), ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'iso_8601'),
                   ('extra_float_digits', '1'), ('bytea_output', 'hex'), ('client_encoding', 'UTF8'),
                   ('row_security', 'off'), ('statement_timeout', '0'), ('transaction_timeout', '0'),
                   ('idle_in_transaction_session_timeout', '0')) AS given (name, value)
      JOIN pg_catalog.pg_settings AS known ON lower(known.name) = lower(given.name)"""

#: A domain is what it was made of; a column of it says so only in its type's name.
_COLUMNS: Final = """
    WITH RECURSIVE resolved AS (
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS written, t.*, t.oid AS type_oid
          FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.attname, r.written, t.*, t.oid
          FROM resolved AS r JOIN pg_catalog.pg_type AS t ON t.oid = r.typbasetype WHERE r.typtype = 'd')
    SELECT attname, written, typname, typnamespace = 'pg_catalog'::regnamespace AS built_in, typtype, typcategory
      FROM resolved WHERE typtype <> 'd'"""

_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "oid"})
#: Types whose text can begin with no character that a spreadsheet would take for a formula.
_HARMLESS: Final = frozenset({"uuid", "date", "time", "timetz", "interval", "inet", "cidr", "macaddr", "macaddr8"})


def shape(connection: psycopg.Connection, table: MappedTable, account: AccountKeys) -> Shape:
    """How the account's rows of `table` are written. Raises Permanent where map and database disagree (T7)."""
    found = {row[0]: row[1:] for row in connection.execute(_COLUMNS, (table.name.schema, table.name.table))}
    if not found:
        raise Permanent(f"The data map names {table.name}, which is not in the database {table.database}.")
    if found.keys() != table.columns:
        unknown, gone = sorted(found.keys() - table.columns), sorted(table.columns - found.keys())
        said = [f"has {', '.join(unknown)}, which the map does not name"] * bool(unknown)
        said += [f"lacks {', '.join(gone)}, which the map names"] * bool(gone)
        raise Permanent(f"{table.name} {' and '.join(said)}: run `tenure datamap check`, then retry.")
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    columns: list[Column] = []
    expressions: list[str] = []
    for name in table.exported:
        written, *kind = found[name]
        form, guarded, expression = _written(_quoted(name), *kind)
        columns.append(Column(name, written, form, guarded))
        expressions.append(guarded_sql(expression, encoding) if guarded else expression)
    relation = f"{_quoted(table.name.schema)}.{_quoted(table.name.table)}"
    condition = written_out(belongs(table, account))
    return Shape(columns, f"SELECT {', '.join(expressions)} FROM {relation} WHERE {condition}")


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _written(column: str, name: str, built_in: bool, kind: str, category: str) -> tuple[Form, bool, str]:
    """Form, whether it is guarded, and the expression, for a column of this type."""
    if kind in "rm":
        return Form.JSON, False, (_range if kind == "r" else _multirange)(column)
    if kind == "c" or category == "A" or (name == "hstore" and not built_in):
        return Form.JSON, False, f"to_json({column})"
    if built_in:
        if name in _NUMBERS:
            return Form.NUMBER, False, column
        if name in _HARMLESS:
            return Form.TEXT, False, column
        if name in _BY_TYPE:
            form, guarded, expression = _BY_TYPE[name]
            return form, guarded, expression(column)
    # Whatever else there is, has a text that PostgreSQL reads again.
    return Form.TEXT, True, f"{column}::text"


def _instant(column: str) -> str:
    """PostgreSQL's own text with a `T`, many times as quick as to_char; what ISO 8601 has no four digits for, as is."""
    return _iso(column, "timestamptz", " || ':00'")


def _local_time(column: str) -> str:
    return _iso(column, "timestamp", "")


def _iso(column: str, kind: str, end: str) -> str:
    return (
        f"CASE WHEN {column} >= {kind} '0001-01-01' AND {column} < {kind} '10000-01-01' "
        f"THEN replace({column}::text, ' ', 'T'){end} ELSE {column}::text END"
    )


def _base64(column: str) -> str:
    # PostgreSQL breaks base64 into lines. It may begin with a plus sign.
    return f"translate(encode({column}, 'base64'), E'\\n', '')"


def _range(column: str) -> str:
    return f"CASE WHEN {column} IS NOT NULL THEN {_range_object(column)} END"


def _range_object(value: str) -> str:
    return (
        f"json_build_object('empty', isempty({value}), 'lower', lower({value}), 'upper', upper({value}), "
        f"'lower_inclusive', lower_inc({value}), 'upper_inclusive', upper_inc({value}))"
    )


def _multirange(column: str) -> str:
    rows = f"SELECT json_agg({_range_object('part')}) FROM unnest({column}) AS part"
    return f"CASE WHEN {column} IS NOT NULL THEN coalesce(({rows}), '[]') END"


_BY_TYPE: Final[Mapping[str, tuple[Form, bool, Callable[[str], str]]]] = {
    "bool": (Form.BOOLEAN, False, "{}::text".format),
    "money": (Form.NUMBER, False, "{}::numeric".format),
    "timestamptz": (Form.INSTANT, False, _instant),
    "timestamp": (Form.LOCAL_TIME, False, _local_time),
    "bytea": (Form.BASE64, True, _base64),
    "json": (Form.JSON, False, str),
    "jsonb": (Form.JSON, False, str),
}
