"""A certificate as a person reads it, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from models.termination.certificate import CertificateKind
from tasks.certificates.chain import Signed
from tasks.crypto.signing import PublicKey
from workers.terminal.output import counted

#: Wider, and the eye loses the line.
WIDTH = 100
TITLES: Mapping[str, str] = {
    CertificateKind.KEY: "Key of certificates",
    CertificateKind.PURGE: "Certificate of erasure",
    CertificateKind.ARCHIVE: "Certificate of erasure: the record",
    CertificateKind.RETENTION: "Certificate of erasure: end of a retention",
}
_STORES: Mapping[str, str] = {
    "table": "tables",
    "objects": "objects",
    "redis": "Redis keys",
    "processor": "processors",
    "mail": "mail",
    "key": "keys",
}
_TIMES: Sequence[tuple[str, str]] = (
    ("requested_at", "requested"),
    ("ends_at", "contract ended"),
    ("frozen_at", "frozen"),
    ("sealed_at", "record sealed"),
    ("delivered_at", "record delivered"),
    ("purge_began_at", "purge began"),
    ("verified_at", "verified empty"),
)


def show(console: Console, signed: Signed, *, key: PublicKey | None, copied: bool) -> None:
    said = signed.content
    parts: list[RenderableType] = [_facts(said)]
    if said.get("times"):
        parts += [Text(), _times(said["times"])]
    if said.get("stores"):
        parts += [Text(), _stores(said["stores"])]
    parts += [Text(), _statements(said)]
    parts += [Text(), _proof(signed, key, copied)]
    console.print(
        Panel(
            Group(*parts),
            title=f"[bold]{TITLES[said['kind']]}[/]  {said['name']}",
            title_align="left",
            width=min(WIDTH, console.width),
            padding=(1, 2),
            border_style="green" if said["kind"] != CertificateKind.KEY else "blue",
        )
    )


def _pairs(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _facts(said: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, RenderableType]] = [
        ("issued by", escape(said["issuer"])),
        ("issued", _moment(said["issued_at"])),
    ]
    if "termination" in said:
        rows += [("termination", said["termination"]), ("account", said["account"])]
    if "introduces" in said:
        rows += [("key", said["introduces"]), ("public key", said["public_key"])]
    return _pairs(rows)


def _times(times: Mapping[str, Any]) -> Table:
    by = {"download": "downloaded", "notice": "notices accepted, window over"}.get(str(times.get("delivered_by")), "")
    rows: list[tuple[str, RenderableType]] = []
    for name, label in _TIMES:
        if times.get(name):
            note = f"  [dim]{by}[/]" if name == "delivered_at" and by else ""
            rows.append((label, _moment(times[name]) + note))
    return _pairs(rows)


def _stores(stores: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("store", overflow="fold")
    table.add_column("method", no_wrap=True)
    for heading in ("found", "erased", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    empty = 0
    for kind, rows in groupby(stores, key=lambda each: each["kind"]):
        table.add_row(f"[bold]{_STORES.get(kind, kind)}[/]")
        for each in rows:
            if not (each["found"] or each["erased"] or each["kept"]):
                empty += 1
                continue
            where = "" if each["place"] in {"main", ""} else f" [dim]in {escape(each['place'])}[/]"
            kept = f"[yellow]{each['kept']:,}[/]" if each["kept"] else "[dim]–[/]"
            found = f"{each['found']:,}" if each["found"] is not None else "[dim]?[/]"
            table.add_row(
                f"  {escape(each['store'])}{where}", each["method"], found, f"[green]{each['erased']:,}[/]", kept
            )
    if empty:
        table.add_row(f"[dim]  {empty} more, which held nothing[/]")
    return table


def _statements(said: Mapping[str, Any]) -> RenderableType:
    lines: list[str] = []
    if verification := said.get("verification"):
        lines.append(
            f"[green]✓[/] {verification['stores']} stores looked through another way: {verification['left']:,} left."
        )
    if keys := said.get("keys_destroyed"):
        destroyed = f"{counted(keys, 'key')} destroyed"
        lines.append(f"[green]✓[/] {destroyed}: copies of the objects in backups cannot be read any more.")
    if record := said.get("record"):
        held = f"{counted(record['rows'], 'row')}, {counted(record['objects'], 'file')}"
        lines.append(f"[green]✓[/] The record given before: {held}, manifest {record['manifest_sha256'][:16]}…")
    for each in said.get("exceptions", ()):
        until = f", until {date.fromisoformat(each['until']):%-d %B %Y}" if each.get("until") else ""
        columns = ", ".join(each.get("redacted", ()))
        redacted = f", without {escape(columns)}" if columns else ""
        lines.append(
            f"[yellow]![/] {each['rows']:,} rows of {escape(each['store'])} stay because of "
            f"{escape(each['legal_basis'])}{until}{redacted}."
        )
    for each in said.get("holds", ()):
        released = _moment(each["released_at"]) if each["released_at"] else "still in force"
        lines.append(f"[dim]·[/] A legal hold from {_moment(each['placed_at'])} to {released}.")
    if "verification" in said and not said.get("exceptions"):
        lines.append("[green]✓[/] No exceptions: nothing was kept.")
    if note := said.get("note"):
        lines.append(f"[dim]·[/] {escape(note)}")
    return Text.from_markup("\n".join(lines))


def _proof(signed: Signed, key: PublicKey | None, copied: bool) -> Table:
    said = signed.content
    if key is None:
        seal = "[yellow]not checked: this installation has not the key[/]"
    elif key.signed(signed.body, signed.signature):
        seal = "[green]valid[/]"
    else:
        seal = "[bold red]NOT VALID: the certificate was changed[/]"
    previous = said["previous"] or "none: it is the first"
    return _pairs(
        [
            ("sha-256", f"[bold]{signed.sha256}[/]"),
            ("one before", previous),
            ("signature", f"Ed25519, key {said['key']}, {seal}"),
            ("copy", "in the object store" if copied else "[yellow]not yet in the object store[/]"),
        ]
    )


def _moment(written: str) -> str:
    moment = datetime.fromisoformat(written).astimezone(UTC)
    return f"{moment:%-d %B %Y, %H:%M:%S} UTC"
