"""Whose sessions a foreign table holds, where the data map says it (S6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, func, select, text

from models.base.unit_of_work import Database
from models.data_map.map import MAIN, AccountKeys, MappedTable, Name, belongs, belongs_to_any
from models.sessions import owner
from tasks.ports.context import Estate

Transaction = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class Owners:
    """A mapped table of sessions, and Tenure's database, which knows of freezes and holds."""

    mapped: MappedTable
    tenure: Database

    def frozen(self) -> Sequence[AccountKeys]:
        """The accounts whose sessions are to go at once."""
        with self.tenure.connection() as connection:
            return owner.ended(connection)

    def theirs(self, accounts: Sequence[AccountKeys]) -> ColumnElement[bool]:
        return belongs_to_any(self.mapped, accounts)

    def of(self, tenure: Connection, store: Connection, account: AccountKeys) -> ColumnElement[bool] | None:
        """The sessions of a frozen account, past the fence (T9); None where they may not go after all."""
        if not owner.is_ended(tenure, account):
            return None
        store.execute(select(func.set_config("tenure.purging", str(account.id), True)))
        return belongs(self.mapped, account)

    def free(self, tenure: Connection) -> ColumnElement[bool]:
        """The sessions that nothing keeps. Holds wait until the transaction ends."""
        return belongs_to_any(self.mapped, owner.kept(tenure)).is_not(True)

    @contextmanager
    def beside(self, engine: Engine, connected: Transaction) -> Iterator[tuple[Connection, Connection]]:
        """A transaction in Tenure's database and one in the store's, which ends first; the same one where it is one
        engine. So a hold that is placed meanwhile waits until what was deleted is committed."""
        if self.tenure.engine is engine:
            with connected() as both:
                yield both, both
        else:
            with self.tenure.connection() as tenure:
                tenure.execute(text("SET LOCAL lock_timeout = '1s'"))
                with connected() as store:
                    yield tenure, store


def owners(connection: Connection, name: Name, tenure: Database, estate: Estate) -> Owners | None:
    """Of the table that is called so in the connection's database; None where the data map has none."""
    databases: Mapping[str, Database] = {MAIN: tenure, **estate.databases}
    here = {each for each, database in databases.items() if _place(database.engine) == _place(connection.engine)}
    for mapped in estate.map.tables:
        if mapped.database in here and mapped.name == name:
            return Owners(mapped, tenure)
    return None


def _place(engine: Engine) -> tuple[object, ...]:
    """Which database it is, whoever connects to it."""
    return engine.url.host, engine.url.port or 5432, engine.url.database
