"""The account's rows of one table, and the SQL that counts, finds, deletes and redacts them (T19).

Rows are found in strides and deleted in batches by their key. Where an index leads from the account along the key, a
stride begins where the one before ended. Elsewhere it begins anew: what was deleted is no longer found, and a stride is
long enough that walking past what was just deleted costs little. The keys come and go as text that PostgreSQL wrote,
so no key of a million becomes an object of Python's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, CursorResult

from models.base.unit_of_work import Database
from models.data_map.live_catalogue import Catalogue, ForeignKey, LiveTable
from models.data_map.map import AccountKeys, Delete, MappedTable, Name, Redact, belongs, written_out
from tasks.purge.order import BINDING, refers_to_itself, stays

#: Rows deleted in one transaction: about a tenth of a second, for which a hold, or whoever renews the lease, waits.
BATCH: Final = 20_000
#: Batches found in one go.
STRIDE: Final = 10


@dataclass(frozen=True, slots=True)
class Batch:
    """The keys of some rows: an array for each column of the key, as PostgreSQL writes it."""

    keys: Sequence[str]
    rows: int
    #: The key of the last one, where rows are found in the order of the key.
    last: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows that follow each other in the order of the key: how many were found and deleted, and the last one's key."""

    found: int
    gone: int
    last: Sequence[str] | None


class Rows:
    """One account's rows of one table."""

    def __init__(self, table: MappedTable, live: Catalogue, account: AccountKeys, *, only: str = "true") -> None:
        """`only` is a further condition, in SQL, for those that are deleted or redacted."""
        self._catalogue = live
        self._only = f"({_escaped(only)})"
        self.table = table
        self.account = account
        self._live: LiveTable = live.tables[table.name]
        self._name = _quoted_name(table.name)
        self._is_ours = _written(belongs(table, account))
        self._key = tuple(table.key or self._live.key)
        self._self_references = [] if stays(table) else refers_to_itself(table, live)

    def count(self, connection: Connection) -> int:
        return int(_value(connection, f"SELECT count(*) FROM {self._name} WHERE {self._is_ours}"))

    def count_left(self, connection: Connection) -> int:
        """How many are to be deleted or redacted."""
        return int(_value(connection, f"SELECT count(*) FROM {self._name} WHERE {self._is_ours} AND {self._is_left}"))

    @property
    def is_walked(self) -> bool:
        """Whether each batch is found where the one before ended, in the statement that deletes it."""
        return self._is_keyset and isinstance(self.table.purge, Delete) and not self._self_references

    def remove_next(self, connection: Connection, after: Sequence[str] | None, batch: int) -> Page:
        """Delete the first rows after a key, in the order of the key. The caller commits."""
        columns = [_quoted(each) for each in self._key]
        names = ", ".join(columns)
        beyond = f"AND ({names}) > ({', '.join(self._cast(n) for n in range(len(columns)))})" if after else ""
        # An array is looked up in the index, whatever the planner thinks of its length.
        same = (
            f"{names} = ANY (ARRAY(SELECT {names} FROM page))"
            if len(columns) == 1
            else f"({names}) IN (SELECT {names} FROM page)"
        )
        backwards = ", ".join(f"{each} DESC" for each in columns)
        last = ", ".join(f"{each}::text" for each in columns)
        found, gone, *last_key = tuple(
            _run(
                connection,
                f"""
            WITH page AS MATERIALIZED (
                     SELECT {names} FROM {self._name} WHERE {self._is_ours} AND {self._is_left} {beyond}
                      ORDER BY {names} LIMIT %(batch)s),
                 gone AS (DELETE FROM {self._name} WHERE {same} AND {self._is_ours} RETURNING 1)
            SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM gone), last.* FROM (SELECT) AS one
              LEFT JOIN (SELECT {last} FROM page ORDER BY {backwards} LIMIT 1) AS last ON true""",
                {"batch": batch} | {f"k{number}": each for number, each in enumerate(after or ())},
            ).one()
        )
        return Page(found, gone, last_key if found else None)

    def strides(self, database: Database, *, batch: int = BATCH, stride: int = STRIDE) -> Iterator[Sequence[Batch]]:
        """The rows that are left, in batches, a stride at a time; over when none is left from first to last."""
        last: Sequence[str] | None = None
        while True:
            with database.connection() as connection:
                found = self._stride(connection, batch, batch * stride, last)
            if found:
                yield found
                last = found[-1].last
            elif last is None:
                return
            else:
                # Once more from the beginning, for what came in behind.
                last = None

    def remove_few(self, connection: Connection, most: int) -> tuple[int, bool]:
        """Delete or redact up to `most` of them; how many, and whether these were all that could be seen.

        The caller commits.
        """
        if not self.is_batched:
            return self.remove_all(connection), True
        found = self._stride(connection, most, most, None)
        if not found:
            return 0, True
        gone = self.remove(connection, found[0])
        # Rows that were found and did not go are looked at once more, by whoever goes through the table alone.
        return gone, gone >= found[0].rows and found[0].rows < most

    @property
    def is_batched(self) -> bool:
        """Whether rows can be told apart: those of a table without a key go in one statement."""
        return bool(self._key)

    @property
    def _is_keyset(self) -> bool:
        """Whether an index leads from the account to its rows in the order of their key."""
        if len(self.table.paths) != 1 or self.table.paths[0].hops:
            return False
        first = self.table.paths[0].column
        wanted = (first, *(each for each in self._key if each != first))
        return any(index[: len(wanted)] == wanted for index in self._live.indexes)

    def _stride(self, connection: Connection, batch: int, rows: int, after: Sequence[str] | None) -> list[Batch]:
        columns = [_quoted(each) for each in self._key]
        # Rows that refer to rows of the same table are mostly younger than these, and so go first.
        down = bool(self._self_references)
        order = ", ".join(f"{each} DESC" if down else each for each in columns)
        values: dict[str, object] = {"batch": batch, "rows": rows}
        condition = f"{self._is_ours} AND {self._is_left}"
        if after is not None:
            here, there = ", ".join(columns), ", ".join(self._cast(n) for n in range(len(columns)))
            condition += f" AND ({here}) {'<' if down else '>'} ({there})"
            values |= {f"k{number}": each for number, each in enumerate(after)}
        sorted_by = f"ORDER BY {order}" if self._is_keyset or down else ""
        arrays = ", ".join(f"array_agg({each} ORDER BY place)::text" for each in columns)
        lasts = ", ".join(f"(array_agg({each} ORDER BY place DESC))[1]::text" for each in columns)
        found = _run(
            connection,
            f"""
            SELECT count(*), {arrays}, {lasts}
              FROM (SELECT {", ".join(columns)}, row_number() OVER ({sorted_by}) AS place
                      FROM (SELECT {", ".join(columns)} FROM {self._name} WHERE {condition}
                            {sorted_by} LIMIT %(rows)s) AS left_over) AS placed
             GROUP BY (place - 1) / %(batch)s ORDER BY (place - 1) / %(batch)s""",
            values,
        )
        width = len(columns)
        return [Batch(row[1 : 1 + width], row[0], row[1 + width :] if self._is_keyset else None) for row in found]

    @property
    def _is_left(self) -> str:
        if isinstance(self.table.purge, Delete):
            return self._only
        return self.differs(self.table.purge.columns)

    def redacted_for(self, columns: Mapping[str, str]) -> Rows:
        """The same rows, of which these columns are to be redacted and nothing is to be deleted."""
        return Rows(replace(self.table, purge=Redact(columns), retention=None), self._catalogue, self.account)

    def soonest(self, connection: Connection, ends: str) -> timedelta | None:
        """How long until the first of the rows reaches `ends`, an instant in SQL; None where there are no rows."""
        found = _run(
            connection,
            f"SELECT min({_escaped(ends)}) - clock_timestamp() FROM {self._name} WHERE {self._is_ours}",
            {},
        )
        return found.scalar_one()  # type: ignore[no-any-return]

    @staticmethod
    def differs(columns: Mapping[str, str]) -> str:
        """The condition that a row is not redacted yet: so expressions are such that, applied again, they change
        nothing."""
        each = [f"{_quoted(name)} IS DISTINCT FROM ({_escaped(to)})" for name, to in columns.items()]
        return f"({' OR '.join(each) or 'false'})"

    def _cast(self, number: int, array: str = "") -> str:
        return f"CAST(%(k{number})s AS {_escaped(self._live.columns[self._key[number]].type)}{array})"

    def _doomed(self) -> str:
        arrays = ", ".join(self._cast(number, "[]") for number in range(len(self._key)))
        names = ", ".join(f"key_{number}" for number in range(len(self._key)))
        return f"unnest({arrays}) AS doomed ({names})"

    def _same_key(self) -> str:
        return " AND ".join(f"row.{_quoted(each)} = doomed.key_{number}" for number, each in enumerate(self._key))

    @property
    def _still_ours(self) -> str:
        """That the row is the account's is seen once more where that costs nothing."""
        return self._is_ours if len(self.table.paths) == 1 and not self.table.paths[0].hops else "true"

    def remove(self, connection: Connection, batch: Batch) -> int:
        """Delete or redact the rows of a batch; how many. The caller commits."""
        values = {f"k{number}": each for number, each in enumerate(batch.keys)}
        if isinstance(self.table.purge, Redact):
            return self._redact(connection, self.table.purge.columns, values)
        if self._self_references:
            return self._delete_with_referring(connection, values)
        return _run(
            connection,
            f"DELETE FROM {self._name} AS row USING {self._doomed()} WHERE {self._same_key()} AND {self._still_ours}",
            values,
        ).rowcount

    def _redact(self, connection: Connection, columns: Mapping[str, str], values: Mapping[str, object]) -> int:
        # The expressions read the row by its bare columns, so the keys come under a name that no column has.
        changes = ", ".join(f"{_quoted(name)} = ({_escaped(to)})" for name, to in columns.items())
        key = ", ".join(map(_quoted, self._key))
        keys = ", ".join(f"doomed.key_{number}" for number in range(len(self._key)))
        return _run(
            connection,
            f"UPDATE {self._name} SET {changes} WHERE ({key}) IN (SELECT {keys} FROM {self._doomed()})"
            f" AND {self._still_ours}",
            values,
        ).rowcount

    def _delete_with_referring(self, connection: Connection, values: Mapping[str, object]) -> int:
        """Rows that refer to one of the batch go with it, and those that refer to these: whatever the keys' order."""
        columns = [_quoted(each) for each in self._key]
        keys = ", ".join(f"key_{number}" for number in range(len(columns)))
        links = " OR ".join(self._link(each) for each in self._self_references)
        own = ", ".join(f"row.{each}" for each in columns)
        return _run(
            connection,
            f"""
            WITH RECURSIVE gone ({keys}) AS (
                SELECT * FROM {self._doomed()}
                UNION
                SELECT {own} FROM {self._name} AS row JOIN {self._name} AS parent ON {links}
                  JOIN gone AS doomed ON {self._same_key().replace("row.", "parent.")})
            DELETE FROM {self._name} AS row USING gone AS doomed WHERE {self._same_key()} AND {self._still_ours}""",
            values,
        ).rowcount

    @staticmethod
    def _link(key: ForeignKey) -> str:
        pairs = zip(key.columns, key.referred_columns, strict=True)
        return "(" + " AND ".join(f"row.{_quoted(a)} = parent.{_quoted(b)}" for a, b in pairs) + ")"

    def remove_all(self, connection: Connection) -> int:
        """Delete or redact all of them in one statement; how many. The caller commits."""
        if isinstance(self.table.purge, Redact):
            changes = ", ".join(f"{_quoted(name)} = ({_escaped(to)})" for name, to in self.table.purge.columns.items())
            return _run(connection, f"UPDATE {self._name} SET {changes} WHERE {self._is_ours}", {}).rowcount
        return _run(connection, self.delete_all(), {}).rowcount

    def delete_all(self) -> str:
        """The statement that deletes all of them, for a group that goes at once."""
        return f"DELETE FROM {self._name} WHERE {self._is_ours} RETURNING 1"

    def strangers(self, connection: Connection, key: ForeignKey, parent: MappedTable) -> bool:
        """Whether rows that are not the account's refer, by `key`, to the account's rows of `parent`."""
        here = ", ".join(map(_quoted, key.columns))
        there = ", ".join(map(_quoted, key.referred_columns))
        theirs = _written(belongs(parent, self.account))
        return bool(
            _value(
                connection,
                f"SELECT EXISTS (SELECT FROM {self._name} WHERE ({here}) IN"
                f" (SELECT {there} FROM {_quoted_name(parent.name)} WHERE {theirs}) AND {self._is_ours} IS NOT TRUE)",
            )
        )


def delete_together(connection: Connection, group: Sequence[Rows]) -> list[int]:
    """Delete the rows of tables that refer to each other in a circle, in one statement; how many of each."""
    parts = ", ".join(f"part_{number} AS ({rows.delete_all()})" for number, rows in enumerate(group))
    counts = ", ".join(f"(SELECT count(*) FROM part_{number})" for number in range(len(group)))
    return list(_run(connection, f"WITH {parts} SELECT {counts}", {}).one())


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def unreferenced(name: Name, live: Catalogue) -> str:
    """The condition that no row of whatever table refers to a row of this one by a foreign key that would hold it."""
    outer = f"{quoted(name.schema)}.{quoted(name.table)}"
    return " AND ".join(
        [
            "true",
            *(
                f"NOT EXISTS (SELECT FROM {quoted(child.name.schema)}.{quoted(child.name.table)} AS child WHERE "
                + " AND ".join(
                    f"child.{quoted(a)} = {outer}.{quoted(b)}"
                    for a, b in zip(key.columns, key.referred_columns, strict=True)
                )
                + ")"
                for child, key in live.referring.get(name, ())
                if key.on_delete in BINDING
            ),
        ]
    )


# Names, conditions and expressions are written into statements as they are: past SQLAlchemy's own placeholders, since a
# name may hold a colon, and with the percent signs doubled, as psycopg wants them.


def _escaped(written: str) -> str:
    return written.replace("%", "%%")


def _written(condition: ColumnElement[bool]) -> str:
    return f"({_escaped(written_out(condition))})"


def _quoted(name: str) -> str:
    return _escaped(quoted(name))


def _quoted_name(name: Name) -> str:
    return f"{_quoted(name.schema)}.{_quoted(name.table)}"


def _run(connection: Connection, statement: str, values: Mapping[str, object]) -> CursorResult[Any]:
    return connection.exec_driver_sql(statement, dict(values))


def _value(connection: Connection, statement: str) -> Any:
    return _run(connection, statement, {}).scalar_one()
