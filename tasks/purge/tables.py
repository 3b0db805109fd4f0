"""The tables of the data map, database by database: counted, compared with the customer's record, and purged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage, outage_reason
from models.data_map import live_catalogue
from models.data_map.live_catalogue import Catalogue
from models.data_map.map import MAIN, AccountKeys, DataMap, Delete, MappedTable
from models.termination.purge import Method, StoreKind
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent, Transient, Unavailable
from tasks.ports.context import Estate
from tasks.purge import order
from tasks.purge.checkpoints import Checkpoint, Planned
from tasks.purge.rows import BATCH, Page, Rows, delete_together

#: How often in a row rows may be found of which none goes: another process may have been quicker.
FRUITLESS: Final = 3

_KEEP: Final = text("""
    INSERT INTO tenure.retentions (termination_id, account_id, account_ref, place, store, legal_basis, duration, rows)
    VALUES (:termination, :account, :ref, :place, :store, :legal_basis, :duration, :rows)
    ON CONFLICT (termination_id, place, store) DO NOTHING""")

#: The tables that have to go at once: mostly one.
Group = Sequence[Rows]
#: Of each table, by its database and name.
Checkpoints = Mapping[tuple[str, str], Checkpoint]


class Tables:
    """All tables of an estate for one account, in the order of their purge."""

    def __init__(self, estate: Estate, account: AccountKeys) -> None:
        self._estate = estate
        self._catalogues = catalogues(estate)
        problems = order.findings(estate.map, self._catalogues)
        if problems:
            raise Permanent(
                f"The purge does not begin: {problems[0]}"
                + (f", and {len(problems) - 1} more like it" if len(problems) > 1 else "")
                + ". `tenure datamap check` lists what is to be mended; then retry."
            )
        #: Other databases first: Tenure's own is what tells of the account.
        self.groups: Sequence[Group] = [
            [Rows(table, self._catalogues[name], account) for table in group]
            for name in sorted(estate.databases, key=lambda name: (name == MAIN, name))
            for group in order.groups(estate.map, name, self._catalogues[name])
        ]

    def __iter__(self) -> Iterator[Rows]:
        return (rows for group in self.groups for rows in group)

    def database(self, rows: Rows) -> Database:
        return self._estate.databases[rows.table.database]

    def count(self, rows: Rows) -> int:
        with reaching(rows.table.database), self.database(rows).connection() as connection:
            return rows.count(connection)

    def count_all(self) -> dict[tuple[str, str], int]:
        """How many rows each table holds, by its database and name."""
        counted: dict[tuple[str, str], int] = {}
        for name, database in self._estate.databases.items():
            with reaching(name), database.connection() as connection:
                counted |= {key(each.table): each.count(connection) for each in self if each.table.database == name}
        return counted

    def left(self, rows: Rows) -> int:
        """How many rows are there that a purge would delete or redact."""
        with reaching(rows.table.database), self.database(rows).connection() as connection:
            return rows.count_left(connection)

    def compare(self, exported: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], int]:
        """How many rows each table holds; raises Permanent where the customer's record holds others (T11)."""
        counted = self.count_all()
        recorded = {(database, name): rows for database, tables in exported.items() for name, rows in tables.items()}
        different = [
            f"{name} holds {found:,} rows and the record {told:,}"
            for place, name in sorted(counted.keys() | recorded.keys())
            if (found := counted.get((place, name), 0)) != (told := recorded.get((place, name), 0))
        ]
        if different:
            raise Permanent(
                f"The purge does not begin, since the customer's record is not what is stored: {different[0]}"
                + (f", and {len(different) - 1} more tables differ" if len(different) > 1 else "")
                + ". Find out who wrote or removed rows since the record was made, undo it, then retry; or cancel the "
                "termination, and begin again."
            )
        return counted

    def refuse_strangers(self) -> None:
        """Raises Permanent where rows of another account refer to rows that are to be deleted."""
        by_name = {key(rows.table): rows for rows in self}
        for name, live in self._catalogues.items():
            with reaching(name), self._estate.databases[name].connection() as connection:
                for child, foreign_key, parent in order.doubtful(self._estate.map, name, live):
                    if by_name[key(child)].strangers(connection, foreign_key, parent):
                        raise Permanent(
                            f"The purge does not begin: rows of {child.name} that are not this account's refer to its "
                            f"rows of {parent.name} by {', '.join(foreign_key.columns)}. Mend these rows, or let the "
                            "foreign key set null, then retry."
                        )

    def purge_all(self, checkpoints: Checkpoints, *, strict: bool) -> None:
        """Purge what is not done yet. `strict`: no more of each table than its checkpoint expects (T11)."""
        for groups in self._batches(checkpoints):
            if len(groups) > 1:
                self._purge_few([rows for (rows,) in groups], checkpoints, strict)
            for group in groups:
                if not all(checkpoints[key(rows.table)].done for rows in group):
                    self._purge_group(group, checkpoints, strict)

    def _batches(self, checkpoints: Checkpoints) -> Iterator[Sequence[Group]]:
        """The groups in their order; neighbours that hold few rows come together, as many as are one batch of rows."""
        few: list[Group] = []
        rows_in_few = 0
        for group in self.groups:
            expected = _few(group, checkpoints)
            if few and (expected is None or rows_in_few + expected > BATCH):
                yield few
                few, rows_in_few = [], 0
            if expected is None:
                yield [group]
            else:
                few.append(group)
                rows_in_few += expected
        if few:
            yield few

    def _purge_few(self, few: Sequence[Rows], checkpoints: Checkpoints, strict: bool) -> None:
        """Purge tables that hold little of the account, in their order and in one transaction.

        It is one batch: the step's token and the holds are asked once for all that it deletes, and either all of its
        checkpoints are committed or none. What cannot be done in this way stays for `_purge_group`, which goes table by
        table and says which one it was.
        """
        passed: list[tuple[Checkpoint, int, bool]] = []
        room = BATCH
        try:
            with checkpoints[key(few[0].table)].deleting() as connection:
                for rows in few:
                    checkpoint = checkpoints[key(rows.table)]
                    gone, is_all = rows.remove_few(connection, max(1, room))
                    room -= gone
                    at_most = checkpoint.expected if strict else None
                    checkpoint.pass_over(connection, gone, at_most=at_most, is_all=is_all)
                    passed.append((checkpoint, gone, is_all))
                    if not is_all:
                        # Others may refer to what is left of it.
                        break
                failpoint("terminations.purge", "before_few_commit")
        except Permanent:
            return
        except DBAPIError as error:
            if is_outage(error):
                raise
            return
        for checkpoint, gone, is_all in passed:
            checkpoint.passed_over(gone, is_all=is_all)
        failpoint("terminations.purge", "after_few")

    def _purge_group(self, group: Group, checkpoints: Checkpoints, strict: bool) -> None:
        for rows in group:
            checkpoints[key(rows.table)].begin(partial(self.count, rows))
        together = [rows for rows in group if len(group) > 1 and not order.stays(rows.table)]
        if together:
            self._purge_together(together, [checkpoints[key(rows.table)] for rows in together], strict)
        for rows in group:
            checkpoint = checkpoints[key(rows.table)]
            if rows not in together:
                self._purge(rows, checkpoint, strict)
            if rows.table.retention is not None:
                kept = self.count(rows)
                with checkpoint.deleting() as connection:
                    _keep(connection, checkpoint.case.id, rows, kept)
                checkpoint.end(removed=0, kept=kept, remark=rows.table.retention.legal_basis)
            elif isinstance(rows.table.purge, Delete) or not strict:
                checkpoint.end()
            else:
                # All rows that are still there are redacted, whether this purge or somebody else changed them.
                checkpoint.end(removed=self.count(rows))

    def _purge(self, rows: Rows, checkpoint: Checkpoint, strict: bool) -> None:
        at_most = checkpoint.expected if strict else None
        if rows.table.retention is not None:
            rows = rows.redacted_for(rows.table.retention.redacted)
        if not rows.is_batched:
            self._one(rows, checkpoint, rows.remove_all, self.count(rows), at_most)
        elif rows.is_walked:
            self._walk(rows, checkpoint, at_most)
        else:
            self._stride(rows, checkpoint, at_most)

    def _walk(self, rows: Rows, checkpoint: Checkpoint, at_most: int | None) -> None:
        begin: Sequence[str] | None = None
        end: Sequence[str] | None = None
        fruitless = 0
        pages: list[Page] = []
        while True:

            def act(connection: Connection, after: Sequence[str] | None = begin) -> int:
                pages.append(rows.remove_next(connection, after, BATCH))
                return pages[-1].gone

            self._one(rows, checkpoint, act, BATCH, at_most)
            page = pages.pop()
            is_all_gone, is_end = page.gone == page.found, page.found < BATCH
            if begin is None and is_end and is_all_gone:
                # It went from the first row to the last.
                return
            # The end of the table says nothing of the rows that were found before it and did not go.
            fruitless = 0 if page.gone else fruitless + (page.found > 0)
            _refuse_endless(rows, fruitless)
            # From the end once more to the beginning, for what came in behind. On the way each page begins where the
            # one before it began: so index entries of rows that just went are marked while their pages are in memory,
            # and the last look from the beginning passes over them without a look at the table.
            begin = end if is_all_gone else page.last
            end = page.last
            if is_end:
                begin = end = None

    def _stride(self, rows: Rows, checkpoint: Checkpoint, at_most: int | None) -> None:
        fruitless = 0
        for stride in rows.strides(self.database(rows), batch=BATCH):
            gone = sum(
                self._one(rows, checkpoint, partial(rows.remove, batch=batch), batch.rows, at_most) for batch in stride
            )
            fruitless = 0 if gone else fruitless + 1
            _refuse_endless(rows, fruitless)

    def _one(
        self,
        rows: Rows,
        checkpoint: Checkpoint,
        act: Callable[[Connection], int],
        how_many: int,
        at_most: int | None,
    ) -> int:
        """One batch in one transaction, or all rows of a table that has no key."""
        with in_words(rows.table):
            if rows.table.database == MAIN:
                return checkpoint.here(act, at_most=at_most)

            def there() -> int:
                with self.database(rows).connection() as connection:
                    say_who(connection, rows.account)
                    gone = act(connection)
                    checkpoint.within(gone, at_most)
                    return gone

            return checkpoint.elsewhere(how_many, there)

    def _purge_together(self, group: Sequence[Rows], checkpoints: Sequence[Checkpoint], strict: bool) -> None:
        database = group[0].table.database
        if database != MAIN:
            for rows, checkpoint in zip(group, checkpoints, strict=True):
                checkpoint.announce(self.count(rows))
        with in_words(group[0].table), checkpoints[0].deleting() as main:
            if database == MAIN:
                gone = delete_together(main, group)
            else:
                with self.database(group[0]).connection() as connection:
                    say_who(connection, group[0].account)
                    gone = delete_together(connection, group)
            for checkpoint, number in zip(checkpoints, gone, strict=True):
                checkpoint.note(main, number, at_most=checkpoint.expected if strict else None)


def _few(group: Group, checkpoints: Checkpoints) -> int | None:
    """How many rows are to go, where they are few, of one table, in Tenure's database, and none of them stays."""
    first, *others = group
    checkpoint = checkpoints[key(first.table)]
    if others or first.table.database != MAIN or order.stays(first.table) or checkpoint.done:
        return None
    return checkpoint.expected if checkpoint.expected is not None and checkpoint.expected < BATCH else None


def _refuse_endless(rows: Rows, fruitless: int) -> None:
    if fruitless == FRUITLESS:
        raise Permanent(
            f"Rows of {rows.table.name} are found and cannot be deleted: a trigger or a rule keeps them. Let it pass "
            "what has tenure.purging set, then retry."
        )


def _keep(connection: Connection, termination: UUID, rows: Rows, count: int) -> None:
    """Note that so many rows stay, and why; `retentions.end` looks at once whether some may go."""
    rule = rows.table.retention
    assert rule is not None  # noqa: S101 - the caller has looked
    connection.execute(
        _KEEP,
        {
            "termination": termination,
            "account": rows.account.id,
            "ref": rows.account.ref,
            "place": rows.table.database,
            "store": str(rows.table.name),
            "legal_basis": rule.legal_basis,
            "duration": rule.duration,
            "rows": count,
        },
    )


def key(table: MappedTable) -> tuple[str, str]:
    return table.database, str(table.name)


def planned(rows: Rows, expected: int) -> Planned:
    method = Method.DELETED if isinstance(rows.table.purge, Delete) else Method.REDACTED
    method = Method.RETAINED if rows.table.retention is not None else method
    return Planned(StoreKind.TABLE, rows.table.database, str(rows.table.name), method, expected)


def catalogues(estate: Estate) -> dict[str, Catalogue]:
    """What each database really holds now. Raises Unavailable or Permanent where one is not to be had."""
    missing = sorted(_named(estate.map) - estate.databases.keys())
    if missing:
        raise Permanent(f"The data map names the database {missing[0]}, whose address is not set: set it, then retry.")
    found: dict[str, Catalogue] = {}
    for name, database in estate.databases.items():
        with reaching(name), database.connection() as connection:
            found[name] = live_catalogue.read(connection)
    return found


def _named(mapped: DataMap) -> set[str]:
    return {each.database for each in mapped.tables} | {each.database for each in mapped.unmapped}


def say_who(connection: Connection, account: AccountKeys) -> None:
    """Say whom this transaction purges, to triggers that want to know."""
    connection.execute(text("SELECT set_config('tenure.purging', :account, true)"), {"account": str(account.id)})


@contextmanager
def reaching(database: str) -> Iterator[None]:
    """Say in words that a database is away; of Tenure's own that is the drain's concern."""
    try:
        yield
    except DBAPIError as error:
        if database == MAIN or not is_outage(error):
            raise
        raise Unavailable(f"The database {database} does not answer: {outage_reason(error)}.") from None


@contextmanager
def in_words(table: MappedTable) -> Iterator[None]:
    """What PostgreSQL has against a deletion, as a failure without a value in it."""
    with reaching(table.database):
        try:
            yield
        except DBAPIError as error:
            state = str(getattr(error.orig, "sqlstate", None) or "")
            if is_outage(error) or not state:
                raise
            if state[:2] == "40" or state == "55P03":
                raise Transient(f"PostgreSQL asks for the purge of {table.name} to be tried again ({state}).") from None
            named = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
            by = f" by {named}" if named else ""
            raise Permanent(
                f"PostgreSQL refuses to purge {table.name}{by} (SQLSTATE {state}): mend the table, its triggers or the "
                "data map, then retry."
            ) from None
