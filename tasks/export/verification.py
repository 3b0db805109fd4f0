"""Checking an archive without the systems that made it (T15): `tenure export verify FILE`.

Every finding is a sentence for whoever holds the archive. Nothing is unpacked to a disk, and no more is read of a file
than the manifest says that it has.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, cast

from email_templates.language.plain_text import one_line
from tasks.crypto.age import VERSION, Identity, Sealed, SealedReader, SealError
from tasks.export import manifest
from tasks.export.guard import SCHEME, is_risky
from tasks.export.manifest import README, TERMINATION, Entry, Kind, Manifest
from tasks.export.reading import CSVError, cells

_PIECE: Final = 1 << 20
#: A manifest of more than this is none: one of a million files has less.
_LONGEST_MANIFEST: Final = 1 << 30
_LONGEST_README: Final = 1 << 20
#: What zipfile raises when what it reads is not what the archive's directory says.
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


class ArchiveError(Exception):
    """What is no archive that could be looked into; the text is a sentence."""


@dataclass
class Findings:
    """What an archive is and what is wrong with it; nothing wrong, and it is as it was written."""

    manifest: Manifest
    manifest_sha256: str
    problems: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, identity: Identity | None = None) -> Generator[zipfile.ZipFile, None, None]:
    """The ZIP at `path`, in the clear or sealed. Raises ArchiveError."""
    try:
        with path.open("rb") as file:
            yield _unsealed(file, identity)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror or error}.") from None
    except zipfile.BadZipFile:
        raise ArchiveError(
            f"{path} is no ZIP archive, or its end is missing: download it again, and compare the sizes."
        ) from None
    except SealError as error:
        raise ArchiveError(f"{path}: {error}") from None


def _unsealed(file: BinaryIO, identity: Identity | None) -> zipfile.ZipFile:
    if file.read(len(VERSION)) != VERSION:
        return zipfile.ZipFile(file)
    if identity is None:
        raise SealError("The archive is sealed: name the file with its key, as --key FILE.")
    size = file.seek(0, 2)

    def read(start: int, stop: int) -> Iterator[bytes]:
        file.seek(start)
        while start < stop and (piece := file.read(min(_PIECE, stop - start))):
            yield piece
            start += len(piece)

    return zipfile.ZipFile(cast(BinaryIO, BufferedReader(SealedReader(Sealed(read, size, identity)), _PIECE)))


def inspect(archive: zipfile.ZipFile) -> Findings:
    """The manifest, without a look at the files. Raises ArchiveError where there is none that can be read."""
    try:
        info = archive.getinfo(manifest.NAME)
    except KeyError:
        raise ArchiveError(f"The archive has no {manifest.NAME}: it is no record that Tenure wrote.") from None
    if info.file_size > _LONGEST_MANIFEST:
        raise ArchiveError(f"The {manifest.NAME} of the archive is too large to be one.")
    try:
        content = archive.read(info)
        return Findings(manifest.decode(content), hashlib.sha256(content).hexdigest())
    except _BROKEN as error:
        raise ArchiveError(f"The {manifest.NAME} of the archive is broken: {_said(error)}.") from None


def verify(archive: zipfile.ZipFile, *, manifest_sha256: str | None = None) -> Findings:
    """Compare every file with the manifest. Raises ArchiveError where there is no manifest."""
    findings = inspect(archive)
    say = findings.problems.append
    if manifest_sha256 is not None and findings.manifest_sha256 != manifest_sha256.strip().lower():
        say(f"The manifest is not the one that was announced: its SHA-256 is {findings.manifest_sha256}.")
    if findings.manifest.csv.formula_guard.scheme != SCHEME:
        say("The formula guard of the archive is not one that this version of Tenure knows.")
    there = Counter(archive.namelist())
    listed = Counter([manifest.NAME, *(entry.path for entry in findings.manifest.files)])
    for path in sorted(there.keys() - listed.keys()):
        say(f"{path} is in the archive, and the manifest does not name it.")
    for path, times in sorted(there.items()):
        if times > 1 or listed[path] > 1:
            say(f"{path} is there more than once: nobody can say which one counts.")
    for entry in findings.manifest.files:
        if entry.path not in there:
            say(f"{entry.path} is missing.")
        else:
            findings.problems += _wrong_with(archive, entry)
    if not findings.problems:
        findings.problems += _wrong_with_retained(findings.manifest, _readme(archive, findings.manifest))
    return findings


def _readme(archive: zipfile.ZipFile, told: Manifest) -> str:
    paths = [entry.path for entry in told.files if entry.kind is Kind.README and entry.bytes <= _LONGEST_README]
    return "".join(archive.read(path).decode("utf-8", "replace") for path in paths)


def _wrong_with_retained(told: Manifest, readme: str) -> Iterator[str]:
    """What of the retentions cannot be (T8), and what a person is not told of them."""
    if told.retained is None:
        if told.format != manifest.FIRST_FORMAT and told.occasion == TERMINATION:
            yield "The manifest does not say what a law makes the company keep, or that it is nothing."
        return
    tables = {(entry.database, entry.table): entry for entry in told.files if entry.kind is Kind.TABLE}
    begun = min((each.taken_at.date() for each in told.snapshots), default=date.min)
    left_out = {each.what for each in told.omissions}
    said = _bare(readme)
    for (database, table), times in Counter((each.database, each.table) for each in told.retained).items():
        if times > 1:
            yield f"The manifest says more than once what is kept of {manifest.where(database, table)}."
    for each in told.retained:
        name = manifest.where(each.database, each.table)
        entry = tables.get((each.database, each.table))
        if entry is None:
            yield f"The manifest says that rows of {name} are kept, and the archive has no such table."
            continue
        columns = {column.name for column in entry.columns or ()}
        for column in (each.counted_from, *each.redacted):
            known = column in columns or manifest.column_of(each.database, each.table, column or "") in left_out
            if column is not None and not known:
                yield f"The manifest says how {name} is kept by its column {column}, which it does not have."
        if not each.legal_basis.strip():
            yield f"The manifest says that rows of {name} are kept, and names no law."
        if each.until < begun:
            yield f"The manifest says that rows of {name} are kept until {each.until}, before the record was made."
        if any(_bare(words) not in said for words in (name, each.legal_basis, *each.redacted)):
            yield f"The manifest says that rows of {name} are kept, and {README} does not say the same."


def _bare(text: str) -> str:
    """The text as a README has it, wherever its lines are broken."""
    return "".join(one_line(text).split())


def _wrong_with(archive: zipfile.ZipFile, entry: Entry) -> Iterator[str]:
    digest = hashlib.sha256()
    size = 0

    def pieces() -> Iterator[bytes]:
        nonlocal size
        with archive.open(entry.path) as file:
            # One piece more than it may have shows that it has more, whatever it is.
            while size <= entry.bytes and (piece := file.read(_PIECE)):
                size += len(piece)
                digest.update(piece)
                yield piece

    content = pieces()
    said: list[str] = []
    try:
        if entry.kind is Kind.TABLE:
            said += _wrong_with_table(entry, content)
        for _ in content:
            """The rest, where a table is torn, and all of any other file."""
    except _BROKEN as error:
        yield f"{entry.path} cannot be unpacked: {_said(error)}."
        return
    if size > entry.bytes:
        yield f"{entry.path} is longer than the {entry.bytes:,} bytes of the manifest."
    elif size < entry.bytes:
        yield f"{entry.path} has {size:,} bytes and the manifest says {entry.bytes:,}."
    elif digest.hexdigest() != entry.sha256:
        yield f"{entry.path} was changed: its SHA-256 is not that of the manifest."
    yield from said


def _wrong_with_table(entry: Entry, content: Iterator[bytes]) -> Iterator[str]:
    columns = entry.columns or ()
    guarded = [number for number, column in enumerate(columns) if column.guarded]
    rows = cells(content)
    count = 0
    try:
        header = next(rows, None)
        if header is None or len(header) != len(columns):
            yield f"{entry.path} has {len(header or ())} columns and the manifest says {len(columns)}."
            return
        for row in rows:
            count += 1
            if len(row) != len(columns):
                yield f"{entry.path}: row {count + 1} has {len(row)} cells instead of {len(columns)}."
                return
            for number in guarded:
                cell = row[number]
                if cell is not None and is_risky(cell):
                    yield (
                        f"{entry.path}: row {count + 1} has a text in the column {columns[number].name} that a "
                        "spreadsheet would run as a formula."
                    )
                    return
    except CSVError as error:
        yield f"{entry.path} is no CSV: {error}."
        return
    if count != entry.rows:
        yield f"{entry.path} has {count:,} rows and the manifest says {entry.rows:,}."


def _said(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
