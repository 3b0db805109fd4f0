"""The manifest of an archive (T15): what is in it, what is not and why, and how to read it. For programs; JSON."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from models.data_map.map import MAIN
from tasks.export import guard

FORMAT: Final = "tenure-export/2"
#: Written until retentions were told (T8): it has no `retained`, and says as little of what is kept as of what is not.
FIRST_FORMAT: Final = "tenure-export/1"
#: Where it lies in the archive: last, because it holds the hashes of all else.
NAME: Final = "manifest.json"
README: Final = "README.txt"
#: The occasion of the record that is made before a purge.
TERMINATION: Final = "termination"


class Kind(StrEnum):
    TABLE = "table"
    OBJECT = "object"
    README = "readme"


class ColumnEntry(msgspec.Struct, frozen=True):
    name: str
    #: As PostgreSQL names it.
    type: str
    form: str
    guarded: bool


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the archive."""

    path: str
    kind: Kind
    bytes: int
    #: Of the file as it is unpacked, in hexadecimal.
    sha256: str
    category: str | None = None
    database: str | None = None
    table: str | None = None
    rows: int | None = None
    columns: tuple[ColumnEntry, ...] | None = None
    #: The key of an object in the object store.
    key: str | None = None


class Omission(msgspec.Struct, frozen=True):
    """What was not exported, and why."""

    what: str
    reason: str


class RetainedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one table that a law makes the company keep when all else is purged (T8)."""

    database: str
    table: str
    legal_basis: str
    #: ISO 8601, such as `P7Y`.
    duration: str
    #: The column from which the duration counts; None is the day of the purge.
    counted_from: str | None
    #: The last day, if the duration counts from the last day of the window in which the record can be fetched.
    until: date
    #: The columns that are made unrecognisable when all else is purged.
    redacted: tuple[str, ...]


class Snapshot(msgspec.Struct, frozen=True):
    """The instant at which one database was read: all its tables show the same state."""

    database: str
    taken_at: datetime


class AccountEntry(msgspec.Struct, frozen=True):
    id: UUID
    ref: str


class FormulaGuard(msgspec.Struct, frozen=True):
    scheme: str = guard.SCHEME
    starters: str = guard.STARTERS
    explanation: str = guard.EXPLANATION


class Dialect(msgspec.Struct, frozen=True):
    """How the CSV files are written."""

    standard: str = "RFC 4180"
    encoding: str = "UTF-8"
    line_end: str = "CRLF"
    header: bool = True
    null: str = 'an empty cell; the empty text is ""'
    instants: str = "ISO 8601 in UTC; before the year 1 and after 9999 as PostgreSQL writes them"
    binary: str = "base64; inside JSON as PostgreSQL writes it, \\x and hexadecimal digits"
    nested: str = "JSON: arrays, records, ranges, key-value pairs"
    formula_guard: FormulaGuard = FormulaGuard()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: str = FORMAT
    archive: UUID
    #: Why the archive was made: `termination`, or `disclosure` with the case's reference (T29).
    occasion: str
    reference: str | None
    account: AccountEntry
    #: The revision of Tenure's own tables, and a hash of the data map.
    schema_version: str
    map_sha256: str
    snapshots: tuple[Snapshot, ...]
    csv: Dialect = Dialect()
    files: tuple[Entry, ...]
    omissions: tuple[Omission, ...]
    #: None where the archive announces no purge (a disclosure), and in `FIRST_FORMAT`.
    retained: tuple[RetainedEntry, ...] | None = None


def where(database: str, name: object) -> str:
    """A table as a person reads it."""
    return str(name) if database == MAIN else f"{name} in {database}"


def column_of(database: str, name: object, column: str) -> str:
    """A column as omissions name it."""
    return f"the column {column} of {where(database, name)}"


def encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(content: bytes) -> Manifest:
    """Raises ValueError, with a sentence, for what is no manifest of this format."""
    try:
        head = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(head.get("format", b'""'), type=str)
        if version not in {FIRST_FORMAT, FORMAT}:
            raise ValueError(
                f"it is of the format {version!r}, and this version of Tenure reads {FIRST_FORMAT} and {FORMAT}"
            )
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ValueError(f"it cannot be read: {error}") from None
