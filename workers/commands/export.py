"""`tenure export`: show and verify an archive, which needs no server, and reissue the links to one (T18).

Exit codes: 0 fine, 1 the archive is not as it was written or is not there, 2 wrong use.
"""

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
from tasks.mail.addresses import NotAnAddress, checked
from tasks.termination import reissuing
from workers.settings.settings import settings
from workers.terminal.options import FILE
from workers.terminal.output import CommandFailed, WrongUse, reports_errors
from workers.wiring import bootstrap

export = click.Group("export")

archive_file = click.argument("file", type=FILE)
archive_key = click.option("--key", type=FILE, help="The file with the key, if the archive is sealed.")


@export.command()
@archive_file
@archive_key
@click.option("--manifest-sha256", help="The SHA-256 that the manifest must have, as it was announced.")
@reports_errors
def verify(file: Path, key: Path | None, manifest_sha256: str | None) -> int:
    """Compare every file of an archive with its manifest.

    Needs no server. Exits with 1 if something differs.
    """
    with _readable(), opened(file, _identity(key)) as archive:
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


@export.command()
@archive_file
@archive_key
@reports_errors
def show(file: Path, key: Path | None) -> None:
    """Show what an archive contains, what it leaves out, and why."""
    with _readable(), opened(file, _identity(key)) as archive:
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


@export.command()
@click.argument("which", metavar="REF|TERMINATION")
@click.option("--to", metavar="ADDRESS", help="Mail the link to this address only, instead of to all contacts.")
@click.option("--print", "by_hand", is_flag=True, help="Mail nothing: print one link, for you to hand over.")
@reports_errors
def reissue(which: str, to: str | None, by_hand: bool) -> None:
    """Make new links to the archive of an ended contract.

    The old links end. No new export is made.
    """
    if to is not None and by_hand:
        raise WrongUse("either --to or --print: a link that is printed is written to nobody.")
    try:
        if to is not None:
            checked(to)
    except NotAnAddress as error:
        raise WrongUse(f"--to is not an e-mail address. {error}") from error
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    ports = bootstrap.ports(settings(), app)
    with ports.database.transaction() as session:
        done = reissuing.reissue(session, ports, reissuing.find(session, which), to=to, by_hand=by_hand)
    until = f"{done.available_until:%Y-%m-%d %H:%M} UTC"
    if done.page is None:
        click.echo(f"A notice with a new link is queued to {done.told}. It is good until {until}; older links ended.")
    else:
        # Alone on its line, for a pipe; the words go beside it.
        click.echo(f"https://{ports.letterhead.company.website}{done.page}")
        click.echo(f"Good until {until}, for whoever has it; older links ended.", err=True)


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
def _readable() -> Iterator[None]:
    """Report an archive that cannot be read."""
    try:
        yield
    except (ArchiveError, SealError) as error:
        raise CommandFailed(str(error)) from error
