"""The data map: where a customer's data lies, how one finds it, how it is exported and how it is purged (T5).

Tenure's own models carry their part in their definition, as `__data_map__`; `own_map` collects it. The company's own
tables are declared in `datamap.toml` and end in the same types. Every table has one of three classes:

- `Personal`: its rows belong to accounts. Each column is exported, or left out with a reason.
- `Shared`: nothing in it is about a customer: a catalogue, a setting.
- `Ignored`: it may be about customers, and is neither exported nor purged, for the reason that is given.

A path says whose a row is. It is read from the row to the account, one foreign key after the other, and ends with the
column that holds the account's `id` (Tenure's tables) or its `ref`, the application's own key of the customer:

    account_id = account.id
    invoice_id = public.invoice.invoice_id > customer_id = account.ref
    (shop, number) = public.invoice.(shop, number) > customer_id = account.ref
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Dialect,
    TableClause,
    bindparam,
    column,
    func,
    or_,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import UserDefinedType

#: The database in which Tenure's own schema lies; others have the names that `datamap.toml` gives them.
MAIN = "main"
NOTHING: Mapping[str, str] = MappingProxyType({})


class Category(StrEnum):
    """What kind of personal data it is, by the clause of the privacy policy that speaks of it."""

    #: About the customer's computers: IP address, location, browser, operating system, referral source, usage.
    MACHINE = "P2.1a"
    #: Given when the account was set up.
    SETUP = "P2.1b"
    #: Submitted by the customer for storage.
    SUBMITTED = "P2.1c"
    #: What the company itself recorded about the account: ledger, statements, mail.
    PLATFORM = "platform"


class AccountKey(StrEnum):
    """What the last column of a path holds."""

    ID = "id"
    REF = "ref"


class DataMapError(Exception):
    """The map is wrong; the sentence says where and what to write."""


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A table of a PostgreSQL database."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{identifier(self.schema)}.{identifier(self.table)}"

    @property
    def sql(self) -> str:
        """As a statement names it, where a word of SQL is quoted, too."""
        return f"{in_sql(self.schema)}.{in_sql(self.table)}"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a path: `columns` of the row hold `referred` of a row of `table`."""

    columns: tuple[str, ...]
    table: Name
    referred: tuple[str, ...]

    def __str__(self) -> str:
        return f"{_columns(self.columns)} = {self.table}.{_columns(self.referred)}"


@dataclass(frozen=True, slots=True)
class Path:
    """How one comes from a row to its account."""

    hops: tuple[Hop, ...]
    column: str
    holds: AccountKey

    def __str__(self) -> str:
        return " > ".join([*map(str, self.hops), f"{identifier(self.column)} = account.{self.holds}"])

    @classmethod
    def parse(cls, written: str) -> Path:
        """A path as the module's docstring shows it; raises DataMapError."""
        *hops, last = _split(written, ">")
        end = _LAST.fullmatch(last)
        if end is None:
            raise DataMapError(
                f'the path "{written}" does not end at the account: let its last step be '
                "COLUMN = account.ref, or COLUMN = account.id"
            )
        return cls(tuple(_hop(hop, written) for hop in hops), _unquoted(end["column"]), AccountKey(end["key"]))


_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\s".,()=>]+)'
_COLUMNS = rf"(?:{_IDENTIFIER}|\(\s*{_IDENTIFIER}(?:\s*,\s*{_IDENTIFIER})*\s*\))"
_LAST = re.compile(rf"(?P<column>{_IDENTIFIER})\s*=\s*account\.(?P<key>id|ref)")
_HOP = re.compile(
    rf"(?P<columns>{_COLUMNS})\s*=\s*(?P<schema>{_IDENTIFIER})\.(?P<table>{_IDENTIFIER})\.(?P<referred>{_COLUMNS})"
)
_NAME = re.compile(rf"(?P<schema>{_IDENTIFIER})\.(?P<table>{_IDENTIFIER})")
#: A dialect in whose text a percent sign is a percent sign.
_PLAIN_TEXT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def identifier(name: str) -> str:
    """A name as a map writes it: quoted where it is not plain."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def in_sql(name: str) -> str:
    """A name as a statement takes it: a word of SQL is quoted, too."""
    return _PLAIN_TEXT.identifier_preparer.quote(name)


def table_name(written: str) -> Name:
    """`schema.table`, each part quoted where it is not plain; raises DataMapError."""
    found = _NAME.fullmatch(written.strip())
    if found is None:
        raise DataMapError(f'"{written}" names no table: write schema.table, such as public.invoice')
    return Name(_unquoted(found["schema"]), _unquoted(found["table"]))


def _columns(names: Sequence[str]) -> str:
    written = ", ".join(map(identifier, names))
    return written if len(names) == 1 else f"({written})"


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _split(written: str, separator: str) -> list[str]:
    """Split outside of quoted names."""
    parts = re.findall(rf'(?:"(?:[^"]|"")*"|[^"{separator}])+', written)
    return [part.strip() for part in parts] or [""]


def _hop(step: str, whole: str) -> Hop:
    found = _HOP.fullmatch(step)
    if found is None:
        raise DataMapError(
            f'the step "{step}" of the path "{whole}" is none: write COLUMN = schema.table.COLUMN, such as '
            "invoice_id = public.invoice.id"
        )
    columns, referred = (
        tuple(_unquoted(name) for name in _split(found[part].strip("()"), ",")) for part in ("columns", "referred")
    )
    if len(columns) != len(referred):
        raise DataMapError(f'the step "{step}" compares {len(columns)} columns with {len(referred)}')
    return Hop(columns, Name(_unquoted(found["schema"]), _unquoted(found["table"])), referred)


@dataclass(frozen=True, slots=True)
class Delete:
    """The account's rows are deleted."""


@dataclass(frozen=True, slots=True)
class Redact:
    """The account's rows stay, with these columns set to these SQL expressions (which may read the row)."""

    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Retention:
    """An exception from the purge (T8): told to the customer, written into the certificate, and ending by itself."""

    #: The law, so that somebody can look it up: "§ 132 BAO".
    legal_basis: str
    #: ISO 8601, such as `P7Y`.
    duration: str
    #: The column, a date or an instant, from which the duration counts; None is the day of the purge.
    counted_from: str | None = None
    #: What is made unrecognisable at once: column to SQL expression.
    redacted: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class ObjectPrefix:
    """Objects of one account: all whose keys begin with `prefix`, where `{account_id}` or `{account_ref}` is filled in.

    A prefix ends with a slash, so that `acme/` is not found in `acme_corp/` (T20).
    """

    prefix: str
    category: Category
    #: Why the objects are no part of the export; None where they are.
    left_out: str | None = None
    #: None is the bucket of Tenure's settings.
    bucket: str | None = None
    #: Whether they are sealed with the account's own key (T27): Tenure's are, and what the company keeps is its own.
    sealed: bool = False

    def of(self, account: AccountKeys) -> str:
        return _filled(self.prefix, account)


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Keys of one account: `pattern` as SCAN takes it, with `{account_id}` or `{account_ref}` filled in and escaped."""

    pattern: str
    category: Category
    #: The environment variable that holds the server's address; None is the broker.
    address_from: str | None = None
    #: Why the keys are no part of the export; None where they are.
    left_out: str | None = None

    def of(self, account: AccountKeys) -> str:
        escape = re.compile(r"([*?\[\]\\^-])")
        return _filled(self.pattern, AccountKeys(account.id, escape.sub(r"\\\1", account.ref)))


#: Processors that Tenure asks by their own API, in small letters.
PAYMENT_PROVIDERS: Final = frozenset({"stripe"})


@dataclass(frozen=True, slots=True)
class Processor:
    """A party outside the company that receives personal data (P3.1f), and how its part is purged."""

    name: str
    receives: str
    #: What a purge does there, such as "delete the customer"; None where nothing is kept, for the reason in `receives`.
    purge: str | None = None
    #: The environment variable with the address at which a purge asks it (T21); None for `PAYMENT_PROVIDERS`.
    address_from: str | None = None
    #: The environment variable with the token that the address asks for.
    token_from: str | None = None


@dataclass(frozen=True, slots=True)
class Personal:
    """What a model of Tenure says about itself: its rows are those of accounts."""

    category: Category
    #: The names of columns with spaces between them, in the order of the export.
    exported: str
    left_out: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    paths: tuple[str, ...] = ("account_id = account.id",)
    purge: Delete | Redact = field(default_factory=Delete)
    objects: tuple[ObjectPrefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """Nothing in the table is about a customer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """The table may be about customers, and is neither exported nor purged."""

    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """What a mixin says of the columns that it brings into a table, as `__data_map_columns__`."""

    exported: str
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MappedTable:
    """A table whose rows belong to accounts."""

    name: Name
    category: Category
    paths: tuple[Path, ...]
    #: The primary key: what an export is sorted by and a purge goes along. Empty where the table has none.
    key: tuple[str, ...]
    #: The columns of the export, in its order.
    exported: tuple[str, ...]
    #: The others, each with the reason, which stands in the manifest (T15).
    left_out: Mapping[str, str]
    purge: Delete | Redact = field(default_factory=Delete)
    retention: Retention | None = None
    database: str = MAIN

    def __post_init__(self) -> None:
        if not self.paths:
            raise DataMapError(f"{self.name} has no path: say how a row leads to its account")

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self.exported) | frozenset(self.left_out)


@dataclass(frozen=True, slots=True)
class UnmappedTable:
    """A table that was looked at and is no part of an account's data."""

    name: Name
    decision: Shared | Ignored
    database: str = MAIN


@dataclass(frozen=True, slots=True)
class DataMap:
    """All of it. Tables stand in foreign-key order, parents first: a purge goes through them from the end."""

    tables: tuple[MappedTable, ...]
    unmapped: tuple[UnmappedTable, ...] = ()
    objects: tuple[ObjectPrefix, ...] = ()
    redis: tuple[RedisKeys, ...] = ()
    processors: tuple[Processor, ...] = ()

    def __add__(self, other: DataMap) -> DataMap:
        return DataMap(
            tables=self.tables + other.tables,
            unmapped=self.unmapped + other.unmapped,
            objects=self.objects + other.objects,
            redis=self.redis + other.redis,
            processors=self.processors + other.processors,
        )


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """Both keys of one account. Neither is ever empty: a purge without an account is impossible (T19)."""

    id: UUID
    ref: str

    def __post_init__(self) -> None:
        if not isinstance(self.id, UUID) or not isinstance(self.ref, str) or not self.ref:
            raise DataMapError("an account is named by its id and its ref, and one of them is missing")

    def value(self, key: AccountKey) -> str:
        return str(self.id) if key is AccountKey.ID else self.ref


def _filled(pattern: str, account: AccountKeys) -> str:
    return pattern.replace("{account_id}", str(account.id)).replace("{account_ref}", account.ref)


class _Untyped(UserDefinedType[str]):
    """A value whose type PostgreSQL takes from what it is compared with: the application's key may be a number."""

    cache_ok = True

    def literal_processor(self, dialect: Dialect) -> Callable[[str], str]:
        def quoted(value: str) -> str:
            # Whatever the database's standard_conforming_strings says of a backslash, one in E'' is written twice.
            escape = "E" if "\\" in value else ""
            return escape + "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"

        return quoted


def written_out(statement: ClauseElement) -> str:
    """The statement with its values in it, for COPY, which takes no parameters."""
    return str(statement.compile(dialect=_PLAIN_TEXT, compile_kwargs={"literal_binds": True}))


def relation(name: Name, *columns: str) -> TableClause:
    """The table for SQLAlchemy's Core, with the columns that the statement names."""
    return table(name.table, *(column(each) for each in columns), schema=name.schema)


def belongs(mapped: MappedTable, account: AccountKeys) -> ColumnElement[bool]:
    """The condition that a row of `mapped` is this account's, for a SELECT, COPY, DELETE or UPDATE of that table alone.

    It compares bare columns, so that indexes serve it, and reaches through `IN (SELECT ...)`, which PostgreSQL turns
    into joins. Within a subquery every column is qualified: an unknown one is an error, and never a column of the table
    outside. A key that cannot be of the column's type is an error, too, not an empty result.
    """

    def this(key: ColumnElement[Any], holds: AccountKey) -> ColumnElement[bool]:
        return key == bindparam("account", account.value(holds), _Untyped(), unique=True)

    return or_(*(_reaches(path, this) for path in mapped.paths))


def belongs_to_any(mapped: MappedTable, accounts: Sequence[AccountKeys]) -> ColumnElement[bool]:
    """The same for any of these accounts, as one array for each path, however many there are."""

    def one_of_these(key: ColumnElement[Any], holds: AccountKey) -> ColumnElement[bool]:
        keys = "{" + ",".join(_array_element(each.value(holds)) for each in accounts) + "}"
        return key == func.any(bindparam("accounts", keys, _Untyped(), unique=True))

    return or_(*(_reaches(path, one_of_these) for path in mapped.paths))


def _array_element(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _reaches(
    path: Path, is_the_account: Callable[[ColumnElement[Any], AccountKey], ColumnElement[bool]]
) -> ColumnElement[bool]:
    # From the account outwards: the innermost condition first.
    rows = [
        relation(hop.table, *hop.referred, *following).alias(f"hop_{number}")
        for number, (hop, following) in enumerate(
            zip(path.hops, [*(hop.columns for hop in path.hops[1:]), (path.column,)], strict=False), start=1
        )
    ]
    last: ColumnElement[Any] = rows[-1].c[path.column] if rows else column(path.column)
    condition = is_the_account(last, path.holds)
    for number in range(len(path.hops) - 1, -1, -1):
        hop, beyond = path.hops[number], rows[number]
        here = [rows[number - 1].c[each] if number else column(each) for each in hop.columns]
        there = select(*(beyond.c[each] for each in hop.referred)).where(condition)
        condition = (here[0] if len(here) == 1 else tuple_(*here)).in_(there)
    return condition


def own_map(base: type[DeclarativeBase]) -> DataMap:
    """The map of Tenure's own tables, from their models. Raises DataMapError with all that is not declared."""
    classes = {mapper.local_table: mapper.class_ for mapper in base.registry.mappers}
    tables: list[MappedTable] = []
    unmapped: list[UnmappedTable] = []
    objects: list[ObjectPrefix] = []
    missing: list[str] = []
    for each in base.metadata.sorted_tables:
        model = classes[each]
        name = Name(str(each.schema), each.name)
        declared = model.__dict__.get("__data_map__")
        if isinstance(declared, Shared | Ignored):
            unmapped.append(UnmappedTable(name, declared))
        elif isinstance(declared, Personal):
            mapped = _mapped(name, model, declared, tuple(column.name for column in each.primary_key))
            missing += _unclassified(mapped, model.__name__, [column.name for column in each.columns])
            tables.append(mapped)
            objects += declared.objects
        else:
            missing.append(
                f"{name} is not in the data map: write __data_map__ = Personal(category, exported, left_out) into "
                f"{model.__module__}.{model.__name__}, or Shared(reason) where nothing in it is about a customer"
            )
    if missing:
        raise DataMapError("; ".join(missing))
    return DataMap(tuple(tables), tuple(unmapped), tuple(objects))


def _mapped(name: Name, model: type, declared: Personal, key: tuple[str, ...]) -> MappedTable:
    brought = [each.__dict__["__data_map_columns__"] for each in model.__mro__ if "__data_map_columns__" in vars(each)]
    return MappedTable(
        name=name,
        category=declared.category,
        paths=tuple(map(Path.parse, declared.paths)),
        key=key,
        exported=tuple(" ".join([declared.exported, *(columns.exported for columns in brought)]).split()),
        left_out={**declared.left_out, **{name: why for columns in brought for name, why in columns.left_out.items()}},
        purge=declared.purge,
    )


def _unclassified(mapped: MappedTable, model: str, columns: Sequence[str]) -> Iterator[str]:
    for each in columns:
        if each not in mapped.columns:
            yield (
                f"{mapped.name} has the column {each}, of which the data map says nothing: in {model}.__data_map__ "
                f'name it in exported, or in left_out as {{"{each}": "the reason"}}'
            )
    for each in sorted(mapped.columns - set(columns)):
        yield f"{mapped.name} has no column {each}, which {model}.__data_map__ names: take it out"
    for each in sorted(set(mapped.exported) & set(mapped.left_out)):
        yield f"the column {each} of {mapped.name} is both exported and left out in {model}.__data_map__: choose one"
