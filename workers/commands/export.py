"""`tenure export`: what an archive holds, and whether it is as it was written. Works without any server."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tasks.crypto.age import Identity, SealError
from tasks.export.manifest import Kind, Manifest, RetainedEntry, where
from tasks.export.verification import ArchiveError, inspect, opened
from tasks.export.verification import verify as compare


def verify(file: Path, key: Path | None, manifest_sha256: str | None) -> int:
    with _in_words(), opened(file, _identity(key)) as archive:
        found = compare(archive, manifest_sha256=manifest_sha256)
    for problem in found.problems:
        click.echo(f"tenure: {problem}", err=True)
    if found.problems:
        click.echo(f"{file} is not as it was written.", err=True)
        return 1
    click.echo(f"{file} is as it was written: {_sum(found.manifest)}.")
    click.echo(f"SHA-256 of its manifest: {found.manifest_sha256}")
    for kept in _told(found.manifest.retained or ()):
        click.echo(f"Kept when all else is purged: {kept}")
    return 0


def show(file: Path, key: Path | None) -> int:
    with _in_words(), opened(file, _identity(key)) as archive:
        found = inspect(archive)
    manifest = found.manifest
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    read_at = ", ".join(f"{each.database} at {each.taken_at:%Y-%m-%d %H:%M:%S} UTC" for each in manifest.snapshots)
    reference = f" {manifest.reference}" if manifest.reference else ""
    console.print(f"Record of account {manifest.account.ref}, for {manifest.occasion}{reference}", markup=False)
    console.print(f"Read from {read_at}\n", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (("file", "left"), ("category", "left"), ("rows", "right"), ("bytes", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for entry in manifest.files:
        rows = "" if entry.rows is None else f"{entry.rows:,}"
        table.add_row(entry.path.replace("[", r"\["), entry.category or "", rows, f"{entry.bytes:,}")
    console.print(table)
    if manifest.retained:
        console.print("\nKept when all else is purged, because a law demands it:")
        for kept in _told(manifest.retained):
            console.print(f"  {kept}", markup=False)
    if manifest.omissions:
        console.print("\nNot in it:")
        for each in manifest.omissions:
            console.print(f"  {each.what}: {each.reason}", markup=False)
    console.print(f"\n{_sum(manifest)}. SHA-256 of the manifest: {found.manifest_sha256}", markup=False)
    return 0


def _told(retained: Iterable[RetainedEntry]) -> Iterator[str]:
    for each in retained:
        since = f" from {each.counted_from}" if each.counted_from else ""
        redacted = f", without {', '.join(each.redacted)}" if each.redacted else ""
        yield (
            f"{where(each.database, each.table)} until {each.until} ({each.legal_basis}: {each.duration}{since})"
            f"{redacted}"
        )


def _sum(manifest: Manifest) -> str:
    tables = [entry for entry in manifest.files if entry.kind is Kind.TABLE]
    objects = sum(entry.kind is Kind.OBJECT for entry in manifest.files)
    rows = sum(entry.rows or 0 for entry in tables)
    return f"{len(tables):,} tables with {rows:,} rows, {objects:,} other files"


def _identity(key: Path | None) -> Identity | None:
    if key is None:
        return None
    try:
        return Identity.parse(key.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ArchiveError(f"The key file {key} cannot be read.") from None
    except SealError as error:
        raise ArchiveError(f"{key}: {error}") from None


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (ArchiveError, SealError) as error:
        click.echo(f"tenure: {error}", err=True)
        sys.exit(1)
