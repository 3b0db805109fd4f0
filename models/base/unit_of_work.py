"""The unit of work: whoever opens it commits; everything inside only adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

APPLICATION_NAME = "tenure"
#: What an administrator may have set on database or role, and every connection of ours sets for itself: our statements
#: are written for these values, some may take hours, and psycopg reads no other style of interval. Times in
#: milliseconds; 0 is no limit.
SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "60000",
}


def sqlalchemy_url(address: str) -> URL:
    """The address as libpq writes it (`postgresql://...`), for psycopg 3."""
    return make_url(address).set(drivername="postgresql+psycopg")


class Database:
    """One engine and the two ways to use it. Nothing connects before the first use.

    A pool of a few connections a process, checked before use, so that a restart of PostgreSQL costs one reconnect and
    no error. `connect_timeout` is in seconds.
    """

    def __init__(self, address: str, *, pool_size: int = 4, connect_timeout: int = 5) -> None:
        self.engine: Engine = create_engine(
            sqlalchemy_url(address),
            pool_size=pool_size,
            max_overflow=2,
            pool_pre_ping=True,
            # An error that is logged says which statement it was, and nothing of whose data.
            hide_parameters=True,
            connect_args={
                "connect_timeout": connect_timeout,
                "application_name": APPLICATION_NAME,
                "options": " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items()),
                "keepalives_idle": 30,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work on an ORM session: commits at the end, rolls back if the body raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The same without the ORM, for set-based SQL."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A read-only unit of work that sees one state of the database throughout."""
        with self.transaction() as session:
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield session

    def dispose(self) -> None:
        """Close the pool's connections; after a fork, forget those of the parent without touching them."""
        self.engine.dispose(close=False)


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's code for an error; empty where no server answered."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def is_away(error: DBAPIError) -> bool:
    """Whether the connection is gone or was refused: nobody knows whether a COMMIT under way happened.

    No SQLSTATE means that no server answered, unless psycopg itself refused a value, such as text with a NUL. Class 08
    is "connection"; 53300 is "too many connections"; 57P01 to 57P05 end a connection.
    """
    if error.connection_invalidated:
        return True
    state = sqlstate(error)
    gone = not state or state.startswith(("08", "57P")) or state == "53300"
    return isinstance(error, OperationalError | InterfaceError) and gone


def is_shortage(error: DBAPIError) -> bool:
    """Whether PostgreSQL rolled a statement back because of a time-out, a cancellation, or lack of memory or disk.

    That may be because of this statement or because of its neighbours: the error does not say which.
    """
    state = sqlstate(error)
    return not is_away(error) and (state.startswith("53") or state == "57014")


def is_conflict(error: DBAPIError) -> bool:
    """Whether a transaction was rolled back because of another one: a deadlock, a serialization failure, a lock held
    for longer than `lock_timeout`. The same again may succeed."""
    return sqlstate(error).startswith("40") or is_lock_timeout(error)


def is_outage(error: DBAPIError) -> bool:
    """Whether PostgreSQL did not serve us, rather than disagreed: `is_away` or `is_shortage`."""
    return is_away(error) or is_shortage(error)


def outage_reason(error: DBAPIError) -> str:
    """Why PostgreSQL did not serve us, in one line, without statement or values."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def refusal(error: DBAPIError) -> str | None:
    """What the database has against what was asked, as a sentence; None where it speaks of itself.

    SQLSTATE classes 22 (data) and 23 (integrity) are about what was asked.
    """
    if sqlstate(error)[:2] not in {"22", "23"}:
        return None
    diagnosis = getattr(error.orig, "diag", None)
    primary = getattr(diagnosis, "message_primary", None) or "the database refused the request"
    hint = getattr(diagnosis, "message_hint", None)
    return f"{primary}. {hint}" if hint else f"{primary}."


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether a lock was not to be had for as long as its `lock_timeout` lets a statement wait (55P03)."""
    return sqlstate(error) == "55P03"
