"""The work of an account whose contract is over is stopped, and goes on if the contract does after all (T9, T10)."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Boolean, Connection, TableClause, func, literal_column, select, update
from sqlalchemy.sql import ColumnElement

from models.base.base import SCHEMA, Base
from models.data_map.map import AccountKeys, Name, belongs, own_map, relation
from models.work import row
from models.work.row import Work, work_tables

#: By this the rows are known that go on when the termination is taken back.
STOPPED = "The contract of the account is over: its work was stopped when it was frozen."


def under_way(connection: Connection, account: AccountKeys) -> str | None:
    """A table with work of the account of which nobody can tell yet what it comes to; None where there is none."""
    for work_table, rows, belonging in _tables(account):
        found = select(rows.c.id).where(belonging, _sql(work_table.under_way)).limit(1)
        if connection.execute(found).first() is not None:
            return work_table.__tablename__
    return None


def stop(connection: Connection, account: AccountKeys) -> int:
    """Take all work of the account out of the work, what is running too: its token is worth nothing then."""
    stopped = 0
    for work_table, rows, belonging in _tables(account):
        done = update(rows).where(belonging, _sql(work_table.stoppable))
        stopped += connection.execute(
            done.values(state="cancelled", finished_at=func.clock_timestamp(), lease_until=None, last_error=STOPPED)
        ).rowcount
    return stopped


def go_on(connection: Connection, account: AccountKeys) -> int:
    """Make due again what was stopped."""
    again = 0
    for work_table, rows, belonging in _tables(account):
        stopped = select(rows.c.id).where(belonging, rows.c.state == "cancelled", rows.c.last_error == STOPPED)
        again += len(row.retry(connection, work_table, connection.scalars(stopped).all()))
    return again


def _sql(condition: str) -> ColumnElement[bool]:
    return literal_column(f"({condition})", Boolean)


def _tables(account: AccountKeys) -> Iterator[tuple[type[Work], TableClause, ColumnElement[bool]]]:
    """Each table of work rows that belong to accounts, and which are this one's."""
    mapped = {each.name: each for each in own_map(Base).tables}
    for work_table in work_tables():
        found = mapped.get(Name(SCHEMA, work_table.__tablename__))
        if found is not None:
            rows = relation(found.name, "id", "state", "finished_at", "lease_until", "last_error")
            yield work_table, rows, belongs(found, account)
