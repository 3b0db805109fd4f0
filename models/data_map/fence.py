"""A fence before mapped tables (T9): what is written for a frozen or purged account is refused.

For each of the application's tables in the database that Tenure lies in, triggers call `tenure.fence` once a statement,
with the rows that it wrote. Whose these are is said by the paths in the map, as a query over the rows written;
`models/schema/sql/130_fence.sql` does the rest. `tenure datamap fence` prints or puts up these.

Tenure's own tables have the same, by functions that are quicker, whenever a database is migrated. Rows of work are
fenced where they are made and where they are removed: what becomes of them in between is the platform's business, and
the freeze sees to it that nothing does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import FromClause, Select, Text, cast, column, select, table, union
from sqlalchemy.dialects import postgresql

from models.data_map.map import MAIN, AccountKey, DataMap, MappedTable, Path, relation

#: Event, the rows that it concerns, and what PostgreSQL calls them.
_EVENTS = (
    ("insert", "INSERT", "NEW"),
    ("update_from", "UPDATE", "OLD"),
    ("update_to", "UPDATE", "NEW"),
    ("delete", "DELETE", "OLD"),
)
WRITTEN = "tenure_written"
BEFORE = "tenure_before"
_DIRECT = Path.parse("account_id = account.id")
_ACCOUNTS_OWN = Path.parse("id = account.id")
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def statements(mapped: DataMap) -> Sequence[str]:
    """What puts the fence up, and may be run again. Tables of other databases stay open: they know of no accounts."""
    return [
        f"CREATE OR REPLACE TRIGGER tenure_fence_{name}_{key} AFTER {event} ON {each.name.sql}\n"
        f"  REFERENCING {rows} TABLE AS {WRITTEN} FOR EACH STATEMENT\n"
        f"  EXECUTE FUNCTION tenure.fence({_literal(query)}, '{key}')"
        for each in mapped.tables
        if each.database == MAIN
        for key, query in _queries(each)
        for name, event, rows in _EVENTS
    ]


def own_statements(mapped: DataMap, *, works: Collection[str], gone: Collection[str]) -> Sequence[str]:
    """The same for Tenure's own tables, of which it names those of work rows, and those whose rows go at the freeze."""
    made: list[str] = []
    for each in mapped.tables:
        events = ["INSERT"]
        if each.name.table not in gone:
            events += ["DELETE"] if each.name.table in works else ["DELETE", "UPDATE"]
        for event in events:
            made += _own(each, event)
    return made


def _own(mapped: MappedTable, event: str) -> Iterator[str]:
    rows = {"INSERT": f"NEW TABLE AS {WRITTEN}", "DELETE": f"OLD TABLE AS {WRITTEN}"}
    update = f"OLD TABLE AS {BEFORE} NEW TABLE AS {WRITTEN}"
    head = f"CREATE OR REPLACE TRIGGER fence_{event.lower()} AFTER {event} ON {mapped.name}"
    if mapped.paths == (_ACCOUNTS_OWN,):
        # Its status is what the fence goes by: it has a trigger of its own.
        return
    if mapped.paths == (_DIRECT,):
        function = "tenure.fence_own_update()" if event == "UPDATE" else "tenure.fence_own()"
        yield f"{head} REFERENCING {rows.get(event, update)} FOR EACH STATEMENT EXECUTE FUNCTION {function}"
        return
    for key, query in _queries(mapped):
        # Nothing leads from a row of these to another account than before.
        written = rows.get(event, f"NEW TABLE AS {WRITTEN}")
        call = f"tenure.fence({_literal(query)}, '{key}')"
        yield f"{head} REFERENCING {written} FOR EACH STATEMENT EXECUTE FUNCTION {call}"


def _queries(mapped: MappedTable) -> Iterator[tuple[AccountKey, str]]:
    """For each kind of key, a query for the keys of the accounts whose rows are in `tenure_written`."""
    for key in AccountKey:
        selects = [_keys(path) for path in mapped.paths if path.holds is key]
        if selects:
            query = selects[0] if len(selects) == 1 else union(*selects)
            yield key, " ".join(str(query.compile(dialect=_DIALECT)).split())


def _keys(path: Path) -> Select[Any]:
    following = [*(hop.columns for hop in path.hops), (path.column,)]
    row: FromClause = table(WRITTEN, *map(column, following[0]))
    conditions = []
    for number, (hop, columns) in enumerate(zip(path.hops, following[1:], strict=True), start=1):
        beyond = relation(hop.table, *hop.referred, *columns).alias(f"hop_{number}")
        pairs = zip(hop.columns, hop.referred, strict=True)
        conditions += [beyond.c[there] == row.c[here] for here, there in pairs]
        row = beyond
    return select(cast(row.c[path.column], Text)).distinct().where(*conditions)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
