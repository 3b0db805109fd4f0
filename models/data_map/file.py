"""`datamap.toml`: the company's own part of the data map (T5, T8), read strictly; see docs/adopt-your-database.md.

Every mistake is a sentence that names the entry; nothing is guessed, and nothing unknown is passed over.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from models.base.base import SCHEMA
from models.data_map.map import (
    MAIN,
    PAYMENT_PROVIDERS,
    Category,
    DataMap,
    DataMapError,
    Delete,
    Ignored,
    MappedTable,
    Name,
    ObjectPrefix,
    Path,
    Processor,
    Redact,
    RedisKeys,
    Retention,
    Shared,
    UnmappedTable,
    table_name,
)

Text = Annotated[str, Meta(min_length=1)]
#: ISO 8601: years, months, weeks, days.
_DURATION = re.compile(r"P(?=\d)(\d{1,3}Y)?(\d{1,4}M)?(\d{1,5}W)?(\d{1,6}D)?", re.ASCII)
#: Folders of Tenure's bucket in which what is its own lies.
OWN_FOLDERS = frozenset({"archives", "certificates", "erasures", "files", "invoices", "statements"})
_PLACEHOLDER = re.compile(r"\{account_(?:id|ref)\}")


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Database(_Entry, frozen=True, kw_only=True):
    address_from: Text


class _Retention(_Entry, frozen=True, kw_only=True):
    legal_basis: Text
    duration: Text
    counted_from: Text | None = None
    redacted: dict[Text, Text] = {}


class _Table(_Entry, frozen=True, kw_only=True):
    name: Text
    category: Category
    paths: Annotated[list[Text], Meta(min_length=1)]
    exported: list[Text]
    key: list[Text] = []
    left_out: dict[Text, Text] = {}
    redact: dict[Text, Text] | None = None
    retention: _Retention | None = None
    database: Text = MAIN


class _Unmapped(_Entry, frozen=True, kw_only=True):
    tables: Annotated[list[Text], Meta(min_length=1)]
    reason: Text
    database: Text = MAIN


class _Undecided(_Entry, frozen=True, kw_only=True):
    tables: list[Text]
    database: Text = MAIN


class _Objects(_Entry, frozen=True, kw_only=True):
    prefix: Text
    category: Category
    left_out: Text | None = None
    bucket: Text | None = None


class _Redis(_Entry, frozen=True, kw_only=True):
    pattern: Text
    category: Category
    address_from: Text | None = None
    left_out: Text | None = None


class _Processor(_Entry, frozen=True, kw_only=True):
    name: Text
    receives: Text
    purge: Text | None = None
    address_from: Text | None = None
    token_from: Text | None = None


@dataclass(frozen=True, slots=True)
class CompanyMap:
    """What the file says."""

    map: DataMap
    #: The environment variable that holds the address of each further database.
    databases: Mapping[str, str]


NONE = CompanyMap(DataMap(()), {})
#: The file's tables, by their name in it, and what each says of its entry when that is wrong.
_SECTIONS = ("table", "shared", "ignored", "undecided", "objects", "redis", "processor")

E = TypeVar("E", bound=_Entry)


def load(file: File) -> CompanyMap:
    """Read the file; raises DataMapError, in sentences."""
    try:
        # Some editors begin a file with a byte order mark.
        return parse(file.read_text(encoding="utf-8-sig"), file.name)
    except OSError as error:
        raise DataMapError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataMapError(f"{file} is not UTF-8, which TOML must be") from None


def parse(content: str, called: str = "datamap.toml") -> CompanyMap:
    """The map of a file's content; raises DataMapError, in sentences that begin with what the file is called."""
    try:
        raw = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise DataMapError(f"{called} is no TOML: {error}") from None
    except RecursionError:
        raise DataMapError(f"{called} is no data map: it holds lists within lists within lists") from None
    try:
        return _company_map(raw)
    except DataMapError as error:
        raise DataMapError(f"{called}: {error}") from None


def _company_map(raw: dict[str, Any]) -> CompanyMap:
    for section in raw:
        if section not in ("databases", *_SECTIONS):
            raise DataMapError(
                f'there is no section "{section}"; there are [databases.NAME], '
                + ", ".join(f"[[{each}]]" for each in _SECTIONS)
            )
    databases = {
        name: _converted(entry, _Database, f"[databases.{name}]").address_from
        for name, entry in _table_of(raw.get("databases", {}), "databases").items()
    }
    if MAIN in databases:
        raise DataMapError(f'the database "{MAIN}" is the one that Tenure lies in: give yours another name')
    mapped = _entries(raw, "table", _Table, "name")
    unmapped: list[tuple[_Unmapped, Shared | Ignored]] = [
        *((each, Shared(each.reason)) for each in _entries(raw, "shared", _Unmapped, "tables")),
        *((each, Ignored(each.reason)) for each in _entries(raw, "ignored", _Unmapped, "tables")),
    ]
    undecided = [name for each in _entries(raw, "undecided", _Undecided, "tables") for name in each.tables]
    if undecided:
        raise DataMapError(
            f"{_some(undecided)} {'is' if len(undecided) == 1 else 'are'} still undecided: move each to [[shared]] "
            "(nothing about customers) or [[ignored]] with a reason, or map it in [[table]]"
        )
    result = DataMap(
        tables=tuple(_about(each.name, _mapped, each) for each in mapped),
        unmapped=tuple(
            UnmappedTable(_own(table_name(name)), decision, each.database)
            for each, decision in unmapped
            for name in each.tables
        ),
        objects=tuple(_objects(each) for each in _entries(raw, "objects", _Objects, "prefix")),
        redis=tuple(_redis(each) for each in _entries(raw, "redis", _Redis, "pattern")),
        processors=_processors(_entries(raw, "processor", _Processor, "name")),
    )
    _refuse_overlaps(result)
    tables: list[MappedTable | UnmappedTable] = [*result.tables, *result.unmapped]
    places = Counter((each.database, each.name) for each in tables)
    for (database, name), times in places.items():
        if times > 1:
            raise DataMapError(f"{name} stands in it {times} times: a table is mapped, shared or ignored, and once")
        if database not in (MAIN, *databases):
            raise DataMapError(f'{name} is said to lie in the database "{database}": write [databases.{database}]')
    return CompanyMap(result, databases)


def _mapped(entry: _Table) -> MappedTable:
    twice = sorted(set(entry.exported) & set(entry.left_out))
    repeated = [name for name, times in Counter(entry.exported).items() if times > 1]
    if twice or repeated:
        raise DataMapError(f"the column {(twice or repeated)[0]} is named twice: export it, or leave it out")
    columns = {*entry.exported, *entry.left_out}
    redacted = entry.redact or {}
    retained = entry.retention.redacted if entry.retention else {}
    for each in [*entry.key, *redacted, *retained]:
        if each not in columns:
            raise DataMapError(f"the column {each} is neither in exported nor in left_out")
    if entry.redact == {}:
        raise DataMapError("redact names no column: leave it out, and the account's rows are deleted")
    return MappedTable(
        name=_own(table_name(entry.name)),
        category=entry.category,
        paths=tuple(map(Path.parse, entry.paths)),
        key=tuple(entry.key),
        exported=tuple(entry.exported),
        left_out=entry.left_out,
        purge=Delete() if entry.redact is None else Redact(entry.redact),
        retention=_retention(entry.retention, columns) if entry.retention else None,
        database=entry.database,
    )


def _retention(entry: _Retention, columns: set[str]) -> Retention:
    if not _DURATION.fullmatch(entry.duration):
        raise DataMapError(f'the duration "{entry.duration}" of its retention is none: write P7Y, P18M or P90D')
    if entry.counted_from is not None and entry.counted_from not in columns:
        raise DataMapError(f"its retention counts from the column {entry.counted_from}, which it does not name")
    return Retention(entry.legal_basis, entry.duration, entry.counted_from, entry.redacted)


def _objects(entry: _Objects) -> ObjectPrefix:
    if not entry.prefix.endswith("/") or not _PLACEHOLDER.search(entry.prefix):
        raise DataMapError(
            f'the prefix "{entry.prefix}" must have {{account_id}} or {{account_ref}} in it and end with a slash, so '
            "that it is one account's and no other's"
        )
    folder = entry.prefix.partition("/")[0]
    if entry.bucket is None and ("{account_ref}" in folder or folder in OWN_FOLDERS):
        raise DataMapError(
            f'the prefix "{entry.prefix}" lies in Tenure\'s own bucket, whose folders {", ".join(sorted(OWN_FOLDERS))} '
            "are Tenure's, and so could be called an account: let it begin with a folder of yours, or name the bucket"
        )
    return ObjectPrefix(entry.prefix, entry.category, entry.left_out, entry.bucket)


def _refuse_overlaps(mapped: DataMap) -> None:
    """What lies below two prefixes would be twice in a record, even where one of them is left out of it."""
    for each in mapped.objects:
        over = [other.prefix for other in mapped.objects if other is not each and other.bucket == each.bucket]
        above = next(filter(each.prefix.startswith, over), None)
        if above is not None:
            raise DataMapError(f'[[objects]] {each.prefix} lies below "{above}", which stands in it, too: choose one')
    for pattern, times in Counter((each.address_from, each.pattern) for each in mapped.redis).items():
        if times > 1:
            raise DataMapError(f"[[redis]] {pattern[1]} stands in it {times} times")


def _redis(entry: _Redis) -> RedisKeys:
    if not _PLACEHOLDER.search(entry.pattern):
        raise DataMapError(f'the pattern "{entry.pattern}" must have {{account_id}} or {{account_ref}} in it')
    return RedisKeys(entry.pattern, entry.category, entry.address_from, entry.left_out)


def _processors(entries: Sequence[_Processor]) -> tuple[Processor, ...]:
    for name, times in Counter(each.name.casefold() for each in entries).items():
        if times > 1:
            raise DataMapError(f'the [[processor]] "{name}" stands in it {times} times')
    return tuple(map(_processor, entries))


def _processor(entry: _Processor) -> Processor:
    asked = entry.address_from is not None
    if asked and entry.purge is None:
        raise DataMapError(f"[[processor]] {entry.name}: it has address_from, so say in purge what is done there")
    if entry.token_from is not None and not asked:
        raise DataMapError(f"[[processor]] {entry.name}: token_from goes with address_from, which it lacks")
    if entry.purge is not None and asked is (entry.name.casefold() in PAYMENT_PROVIDERS):
        raise DataMapError(
            f"[[processor]] {entry.name}: Tenure asks it by its own API, so leave address_from out"
            if asked
            else f'[[processor]] {entry.name}: nobody would do what its purge says ("{entry.purge}"): name in '
            "address_from the environment variable with the address that a purge asks, or leave purge out where "
            "nothing is kept"
        )
    return Processor(entry.name, entry.receives, entry.purge, entry.address_from, entry.token_from)


def _own(name: Name) -> Name:
    if name.schema == SCHEMA:
        raise DataMapError(f"{name} is Tenure's own, whose models say what it holds: take it out")
    return name


def _entries(raw: Mapping[str, Any], section: str, kind: type[E], called_by: str) -> Sequence[E]:
    entries = raw.get(section, [])
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise DataMapError(f"{section} is a list: write [[{section}]] above each entry")
    return [_converted(each, kind, _called(each, section, called_by, n)) for n, each in enumerate(entries, start=1)]


def _called(entry: Mapping[str, Any], section: str, by: str, number: int) -> str:
    name = entry.get(by)
    name = name[0] if isinstance(name, list) and name else name
    return f"[[{section}]] {name}" if isinstance(name, str) else f"[[{section}]] number {number}"


def _table_of(value: Any, section: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataMapError(f"{section} is a table: write [{section}.NAME]")
    return value


def _converted(value: Any, kind: type[E], called: str) -> E:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        said = re.sub(r"^Object contains unknown field `(.*?)`", r'it has no field "\1"', said)
        said = re.sub(r"^Object missing required field `(.*?)`", r'it lacks the field "\1"', said)
        said = re.sub(r"^Invalid enum value '(.*?)'", rf'"\1" is none of {", ".join(Category)}', said)
        said = re.sub(r" - at `(?:key in )?\$\.?(.*?)`$", lambda at: f", in {at[1]}" if at[1] else "", said)
        raise DataMapError(f"{called}: {said}") from None


def _about(name: str, build: Callable[[_Table], MappedTable], entry: _Table) -> MappedTable:
    try:
        return build(entry)
    except DataMapError as error:
        raise DataMapError(f"[[table]] {name}: {error}") from None


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
