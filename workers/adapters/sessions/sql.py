"""Sessions that another program keeps in a table (S5): swept in keyset batches that hardly wait for anybody.

PostgreSQL in one statement a batch. Where somebody holds one of its rows, it is given up after a moment and done again
without those; MySQL and SQLite through SQLAlchemy in two. A table whose column has an index is swept in that order, any
other in the order of its key, each row looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Select,
    Table,
    delete,
    exists,
    func,
    inspect,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import DateTime, Integer

from models.base.unit_of_work import Database, is_lock_timeout, is_outage, outage_reason
from models.data_map.map import AccountKeys, Name
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent, Unavailable
from tasks.ports.context import Estate
from tasks.ports.sessions import Left, Swept
from workers.adapters.sessions.owners import Owners, owners
from workers.settings.session_stores import SQLTable

DAY = timedelta(hours=24)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"seconds": timedelta(seconds=1), "milliseconds": timedelta(milliseconds=1)}
#: Clocks of the application and of the database may differ by this before a session is said to last too long.
CLOCKS = timedelta(minutes=5)

#: How long a statement waits for what others hold. While it does, it holds rows itself.
SHORT, LONG = "100ms", "1s"

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


class _LockedByOthers(Unavailable):
    """Somebody holds rows of the table, or all of it."""


class SQLSessions:
    """The port `tasks.ports.SessionStore` over a table.

    Where the data map says whose a session is, those of frozen accounts are ended at once, and those of accounts under
    legal hold are kept (S6). Without that, nobody knows.
    """

    def __init__(
        self,
        store: SQLTable,
        engine: Engine,
        *,
        tenure: Database | None = None,
        company: Callable[[], Estate] | None = None,
    ) -> None:
        """`tenure` is where holds are asked for, and `company` what the data map is."""
        self.name = store.name
        self._store = store
        self._engine = engine
        self._tenure = tenure
        self._company = company
        self._table: Table | None = None
        self._owners: Owners | None = None

    def check(self) -> None:
        with self._connected() as connection:
            self._table = self._checked(connection)
            self._owners = self._owned(connection)

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        last = None
        gone = self._end_frozen(stopping)
        with self._connected() as connection:
            cutoff = self._value(self._now(connection) - self._age_at_value())
            batch = self._by_column if self._has_index(connection) else self._by_key
        while not stopping():
            before = last
            deleted, looked_at, last = self._patiently(partial(batch, cutoff, last))
            failpoint("sessions.sweep", "after_batch_commit")
            gone += deleted
            if looked_at < self._store.batch or (deleted == 0 and last == before):
                return Swept(gone, 0, finished=True)
        return Swept(gone, 0, finished=False)

    def _patiently(self, batch: Callable[[bool], tuple[int, int, Any]]) -> tuple[int, int, Any]:
        """A batch, first without a look at who holds which row: to lock rows before they are deleted writes as much to
        the log as to delete them. Where that has to wait, it is done again, and what others hold is passed over."""
        try:
            return batch(False)
        except _LockedByOthers:
            return batch(True)

    def _end_frozen(self, stopping: Callable[[], bool]) -> int:
        """End all sessions of frozen accounts, of any age, as far as the data map knows whose they are."""
        owners = self._owners
        frozen = owners.frozen() if owners else ()
        if not owners or not frozen:
            return 0
        with self._connected() as connection:
            if not connection.execute(select(exists(select(self._key).where(owners.theirs(frozen))))).scalar_one():
                return 0
        gone = 0
        for account in frozen:
            deleted = self._store.batch
            while deleted == self._store.batch and not stopping():
                deleted = self._end_sessions_of(account, owners)
                failpoint("sessions.sweep", "after_frozen")
                gone += deleted
        return gone

    def end(self, account: AccountKeys) -> int:
        self.check()
        owners = self._owners
        if owners is None:
            return 0
        while self._end_sessions_of(account, owners) == self._store.batch:
            pass
        with owners.beside(self._engine, self._connected) as (tenure, connection):
            theirs = owners.of(tenure, connection, account)
            if theirs is None:
                return 0
            counted = select(func.count()).select_from(self._known).where(theirs)
            return int(connection.execute(counted).scalar_one())

    def _end_sessions_of(self, account: AccountKeys, owners: Owners) -> int:
        """A batch of a frozen account's sessions; how many went."""
        with owners.beside(self._engine, self._connected) as (tenure, connection):
            theirs = owners.of(tenure, connection, account)
            if theirs is None:
                return 0
            wanted = select(self._key).where(theirs).limit(self._store.batch)
            ids = func.array(wanted.with_for_update(skip_locked=True).scalar_subquery())
            return connection.execute(delete(self._known).where(self._key == func.any(ids))).rowcount

    def left(self) -> Left:
        """What is left, but for what a hold or a termination keeps."""
        free: ColumnElement[bool] = true()
        if self._owners is not None:
            with self._owners.tenure.connection() as tenure:
                free = self._owners.free(tenure)
        with self._connected() as connection:
            now = self._now(connection)
            oldest = connection.execute(select(func.min(self._column)).where(free)).scalar_one()
            outlasting = 0
            if self._store.expires:
                latest = self._value(now + timedelta(hours=self._store.lifetime_hours) + CLOCKS)
                beyond = or_(self._column > latest, self._column.is_(None))
                outlasting = connection.execute(
                    select(func.count()).select_from(self._known).where(beyond, free)
                ).scalar_one()
        return Left(None if oldest is None else self._began(oldest), outlasting)

    def count(self) -> int:
        with self._connected() as connection:
            return int(connection.execute(select(func.count()).select_from(self._known)).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def _by_column(self, cutoff: Any, last: Any, passing_over: bool) -> tuple[int, int, Any]:
        """A batch in the order of the column, which says when: rows deleted, rows looked at, where to go on."""
        key, column = self._key, self._column
        with self._deleting(passing_over) as (connection, free):
            wanted = select(key.label("key"), column.label("value")).where(column <= cutoff, free)
            wanted = wanted.order_by(column).limit(self._store.batch)
            if last is not None:
                wanted = wanted.where(column >= last)
            gone, looked_at, upper = self._delete(connection, wanted, cutoff, passing_over)
            failpoint("sessions.sweep", "before_batch_commit")
        return gone, looked_at, last if upper is None else upper

    def _by_key(self, cutoff: Any, last: Any, passing_over: bool) -> tuple[int, int, Any]:
        """A page in the order of the key: of its rows those that are over are deleted."""
        key, column = self._key, self._column
        with self._deleting(passing_over) as (connection, free):
            page = select(key.label("key")).order_by(key).limit(self._store.batch)
            found = (page if last is None else page.where(key > last)).cte("page")
            # Not max(), which does not know every type of key.
            last_one = select(found.c.key).order_by(found.c.key.desc()).limit(1).scalar_subquery()
            looked_at, upper = connection.execute(select(func.count(), last_one).select_from(found)).one()
            if not looked_at:
                return 0, 0, last
            over = [key <= upper, column <= cutoff, free] + ([] if last is None else [key > last])
            if connection.dialect.name == "postgresql" and not passing_over:
                gone = connection.execute(delete(self._known).where(*over)).rowcount
            else:
                wanted = select(key.label("key"), column.label("value")).where(*over)
                gone = self._delete(connection, wanted, cutoff, passing_over)[0]
            failpoint("sessions.sweep", "before_batch_commit")
        return gone, looked_at, upper

    def _delete(
        self, connection: Connection, wanted: Select[Any], cutoff: Any, passing_over: bool
    ) -> tuple[int, int, Any]:
        """Delete what `wanted` finds: how many, of how many, and the last value of the column.

        A row that was renewed while it was waited for is not over any more, and stays.
        """
        key, column = self._key, self._column
        if connection.dialect.name == "postgresql":
            page = (wanted.with_for_update(skip_locked=True) if passing_over else wanted).cte("page")
            ids = func.array(select(page.c.key).scalar_subquery())
            ended = delete(self._known).where(key == func.any(ids), column <= cutoff).returning(key).cte("ended")
            counted = select(func.count()).select_from(ended).scalar_subquery()
            row = connection.execute(select(counted, func.count(), func.max(page.c.value)).select_from(page)).one()
            return row[0], row[1], row[2]
        rows = connection.execute(wanted.with_for_update(skip_locked=True)).all()
        gone = 0
        if rows:
            gone = connection.execute(
                delete(self._known).where(key.in_([row[0] for row in rows]), column <= cutoff)
            ).rowcount
        return gone, len(rows), rows[-1][1] if rows else None

    @contextmanager
    def _deleting(self, passing_over: bool) -> Iterator[tuple[Connection, ColumnElement[bool]]]:
        """A transaction that deletes what is over, and the condition of rows that nothing keeps (S6)."""
        connected = partial(self._connected, LONG if passing_over else SHORT)
        if self._owners is None:
            with connected() as connection:
                yield connection, true()
        else:
            with self._owners.beside(self._engine, connected) as (tenure, connection):
                yield connection, self._owners.free(tenure)

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

    def _owned(self, connection: Connection) -> Owners | None:
        """Whose its rows are, if the data map says it."""
        if connection.dialect.name != "postgresql" or self._tenure is None or self._company is None:
            return None
        table = self._known
        quoted = connection.dialect.identifier_preparer.format_table(table)
        schema = connection.execute(
            text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(:table)"),
            {"table": quoted},
        ).scalar_one()
        return owners(connection, Name(schema, table.name), self._tenure, self._company())

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
    def _connected(self, patience: str = LONG) -> Iterator[Connection]:
        """A short transaction; what the database says becomes a sentence."""
        try:
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text(f"SET LOCAL lock_timeout = '{patience}'"))
                yield connection
        except DBAPIError as error:
            if is_outage(error):
                raise Unavailable(f"Session store {self.name!r} does not answer: {outage_reason(error)}") from None
            if is_lock_timeout(error):
                raise _LockedByOthers(f"Session store {self.name!r}: its table is locked by somebody else.") from None
            raise self._wrong(f"its database refuses ({type(error.orig).__name__})") from None
        except SQLAlchemyError as error:
            raise self._wrong(f"it cannot be used ({type(error).__name__})") from None
