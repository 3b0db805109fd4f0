"""Sessions that another program keeps in a table (S5): swept in keyset batches that wait for nobody.

PostgreSQL in one statement a batch, passing over rows that others hold; MySQL and SQLite through SQLAlchemy in two. A
table whose column has an index is swept in that order, any other in the order of its key, each row looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Engine, MetaData, Select, Table, delete, func, inspect, or_, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import DateTime, Integer

from models.unit_of_work import is_lock_timeout, is_outage, outage_reason
from tasks.failpoints import failpoint
from tasks.failures import Permanent, Unavailable
from tasks.ports import Left, Swept
from workers.session_stores import SQLTable

DAY = timedelta(hours=24)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"seconds": timedelta(seconds=1), "milliseconds": timedelta(milliseconds=1)}
#: Clocks of the application and of the database may differ by this before a session is said to last too long.
CLOCKS = timedelta(minutes=5)

#: The store's own clock, in UTC.
NOW = {
    "postgresql": "SELECT now()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
    "sqlite": "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')",
}


def _utc(instant: datetime) -> datetime:
    """What a database gives without a zone is UTC."""
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


class SQLSessions:
    """The port `tasks.ports.SessionStore` over a table."""

    def __init__(self, store: SQLTable, engine: Engine) -> None:
        self.name = store.name
        self._store = store
        self._engine = engine
        self._table: Table | None = None

    def check(self) -> None:
        with self._connected() as connection:
            self._table = self._checked(connection)

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        gone, last = 0, None
        with self._connected() as connection:
            cutoff = self._value(self._now(connection) - self._age_at_value())
            by_column = self._has_index(connection)
        batch = self._by_column if by_column else self._by_key
        while not stopping():
            with self._connected() as connection:
                deleted, looked_at, last = batch(connection, cutoff, last)
                failpoint("sessions.sweep", "before_batch_commit")
            failpoint("sessions.sweep", "after_batch_commit")
            gone += deleted
            if looked_at < self._store.batch:
                return Swept(gone, 0, finished=True)
        return Swept(gone, 0, finished=False)

    def left(self) -> Left:
        with self._connected() as connection:
            now = self._now(connection)
            oldest = connection.execute(select(func.min(self._column))).scalar_one()
            outlasting = 0
            if self._store.expires:
                latest = self._value(now + timedelta(hours=self._store.lifetime_hours) + CLOCKS)
                beyond = or_(self._column > latest, self._column.is_(None))
                outlasting = connection.execute(
                    select(func.count()).select_from(self._known).where(beyond)
                ).scalar_one()
        return Left(None if oldest is None else self._began(oldest), outlasting)

    def count(self) -> int:
        with self._connected() as connection:
            return int(connection.execute(select(func.count()).select_from(self._known)).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def _by_column(self, connection: Connection, cutoff: Any, last: Any) -> tuple[int, int, Any]:
        """A batch in the order of the column, which says when: rows deleted, rows looked at, where to go on."""
        key, column = self._key, self._column
        wanted = select(key, column).where(column <= cutoff).order_by(column).limit(self._store.batch)
        if last is not None:
            wanted = wanted.where(column >= last)
        gone, values = self._delete(connection, wanted, cutoff)
        return gone, gone, values

    def _by_key(self, connection: Connection, cutoff: Any, last: Any) -> tuple[int, int, Any]:
        """A page in the order of the key: of its rows those that are over are deleted."""
        key, column = self._key, self._column
        page = select(key.label("key")).order_by(key).limit(self._store.batch)
        found = (page if last is None else page.where(key > last)).cte("page")
        # Not max(), which does not know every type of key.
        last_one = select(found.c.key).order_by(found.c.key.desc()).limit(1).scalar_subquery()
        looked_at, upper = connection.execute(select(func.count(), last_one).select_from(found)).one()
        if not looked_at:
            return 0, 0, last
        wanted = select(key, column).where(key <= upper, column <= cutoff)
        wanted = wanted if last is None else wanted.where(key > last)
        return self._delete(connection, wanted, cutoff)[0], looked_at, upper

    def _delete(self, connection: Connection, wanted: Select[Any], cutoff: Any) -> tuple[int, Any]:
        """Delete what `wanted` finds and nobody holds: how many, and the last value of the column."""
        key, column = self._key, self._column
        if connection.dialect.name == "postgresql":
            ids = func.array(wanted.with_only_columns(key).with_for_update(skip_locked=True).scalar_subquery())
            ended = delete(self._known).where(key == func.any(ids)).returning(column.label("value")).cte("ended")
            row = connection.execute(select(func.count(), func.max(ended.c.value)).select_from(ended)).one()
            return row[0], row[1]
        rows = connection.execute(wanted.with_for_update(skip_locked=True)).all()
        gone = 0
        if rows:
            gone = connection.execute(
                delete(self._known).where(key.in_([row[0] for row in rows]), column <= cutoff)
            ).rowcount
        return gone, rows[-1][1] if rows else None

    @property
    def _known(self) -> Table:
        if self._table is None:
            with self._connected() as connection:
                self._table = self._checked(connection)
        return self._table

    @property
    def _key(self) -> Column[Any]:
        return self._known.c[self._store.key]

    @property
    def _column(self) -> Column[Any]:
        return self._known.c[self._store.column]

    def _age_at_value(self) -> timedelta:
        """How long after the instant in the column a session is a day old; below zero where it would last longer."""
        return DAY if self._store.created else DAY - timedelta(hours=self._store.lifetime_hours)

    def _began(self, value: Any) -> datetime:
        """When a session began, as far as its row tells."""
        if self._store.epoch:
            instant: datetime = EPOCH + value * UNITS[self._store.epoch]
        else:
            instant = _utc(value)
        return instant - (timedelta(0) if self._store.created else timedelta(hours=self._store.lifetime_hours))

    def _value(self, instant: datetime) -> Any:
        """An instant as the column holds it."""
        if self._store.epoch:
            return (instant - EPOCH) // UNITS[self._store.epoch]
        return instant if getattr(self._column.type, "timezone", False) else instant.replace(tzinfo=None)

    def _now(self, connection: Connection) -> datetime:
        now = connection.execute(text(NOW[connection.dialect.name])).scalar_one()
        made: datetime = datetime.fromisoformat(now) if isinstance(now, str) else now
        return _utc(made)

    def _has_index(self, connection: Connection) -> bool:
        """Whether an index begins with the column."""
        table = self._known
        indexes = inspect(connection).get_indexes(table.name, schema=table.schema)
        return any(index["column_names"][:1] == [self._store.column] for index in indexes)

    def _checked(self, connection: Connection) -> Table:
        """The table as it is there. Raises `Permanent` where it is not what the settings say."""
        store = self._store
        if connection.dialect.name not in NOW:
            raise self._wrong("its database is none of PostgreSQL, MySQL, MariaDB and SQLite")
        schema, _, table = store.table.rpartition(".")
        inspector = inspect(connection)
        if not inspector.has_table(table, schema=schema or None):
            raise self._wrong(f"there is no table {store.table!r} that this user can see: name it as schema.table")
        columns = {each["name"]: each for each in inspector.get_columns(table, schema=schema or None)}
        for column in (store.key, store.column):
            if column not in columns:
                raise self._wrong(f"its table {store.table!r} has no column {column!r}; it has {', '.join(columns)}")
        kind = columns[store.column]["type"]
        if store.epoch and not isinstance(kind, Integer):
            raise self._wrong(f"its column {store.column!r} is {kind}, not a whole number: take `epoch` out")
        if not store.epoch and not isinstance(kind, DateTime):
            raise self._wrong(f"its column {store.column!r} is {kind}, not a timestamp; for a whole number say `epoch`")
        unique: list[Sequence[str | None]] = [
            inspector.get_pk_constraint(table, schema=schema or None)["constrained_columns"]
        ]
        unique += [each["column_names"] for each in inspector.get_unique_constraints(table, schema=schema or None)]
        unique += [
            each["column_names"] for each in inspector.get_indexes(table, schema=schema or None) if each["unique"]
        ]
        if [store.key] not in unique:
            raise self._wrong(f"two rows may have the same {store.key!r}: `key` is a primary key or unique column")
        if connection.dialect.name == "postgresql":
            self._check_rights(connection, store.table)
        return Table(
            table,
            MetaData(),
            Column(store.key, columns[store.key]["type"]),
            Column(store.column, kind),
            schema=schema or None,
        )

    def _check_rights(self, connection: Connection, table: str) -> None:
        quote = connection.dialect.identifier_preparer.quote
        lacking = [
            right
            # SELECT ... FOR UPDATE, by which rows that others hold are passed over, asks for UPDATE.
            for right in ("SELECT", "UPDATE", "DELETE")
            if not connection.execute(
                text("SELECT has_table_privilege(:table, :right)"),
                {"table": ".".join(quote(part) for part in table.rpartition(".")[::2] if part), "right": right},
            ).scalar_one()
        ]
        if lacking:
            raise self._wrong(f"this user lacks {', '.join(lacking)} on its table {table!r}: GRANT it")

    def _wrong(self, what: str) -> Permanent:
        return Permanent(f"Session store {self.name!r}: {what}.")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A short transaction; what the database says becomes a sentence."""
        try:
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SET LOCAL lock_timeout = '1s'"))
                yield connection
        except DBAPIError as error:
            if is_outage(error):
                raise Unavailable(f"Session store {self.name!r} does not answer: {outage_reason(error)}") from None
            if is_lock_timeout(error):
                raise Unavailable(f"Session store {self.name!r}: its table is locked by somebody else.") from None
            raise self._wrong(f"its database refuses ({type(error.orig).__name__})") from None
        except SQLAlchemyError as error:
            raise self._wrong(f"it cannot be used ({type(error).__name__})") from None
