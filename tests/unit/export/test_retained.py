"""What a law makes the company keep stands in the record's manifest and README, and the verifier compares them (T8)."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from email_templates.language.company import Company
from email_templates.language.translations import languages
from email_templates.pages.archive_readme import record_readme
from tasks.export import manifest
from tasks.export.manifest import AccountEntry, ColumnEntry, Entry, Kind, Manifest, Omission, RetainedEntry, Snapshot
from tasks.export.retained import for_a_person
from tasks.export.verification import verify

COMPANY = Company(name="Harbour Ledger", address=(), email="help@harbour.example", website="harbour.example")
HEADER = b'"id","dated"\r\n'
BILLS = RetainedEntry(
    database="billing",
    table='shop."Bill of ""sale"""',
    legal_basis="§ 132 BAO, which is a law whose name is so long that no line of a README holds it; قانون",
    duration="P7Y",
    counted_from="dated",
    until=date(2033, 12, 31),
    redacted=("dated", "street"),
)


def readme(*kept: RetainedEntry, language: str = "en") -> bytes:
    said = record_readme(company=COMPANY, account_name="Acme", language=language, kept=for_a_person(kept))
    return said.replace("\n", "\r\n").encode("utf-8-sig")


def problems(*kept: RetainedEntry, said: bytes | None = None, **changes: Any) -> list[str]:
    """What the verifier has against a record with these retentions and one table."""
    files = {manifest.README: readme(*kept) if said is None else said, "tables/bill.csv": HEADER}
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    columns = tuple(ColumnEntry(name, "text", "text", False) for name in ("id", "dated"))
    told = Manifest(
        archive=UUID(int=1),
        occasion="termination",
        reference=None,
        account=AccountEntry(UUID(int=2), "acme"),
        schema_version="0042",
        map_sha256="0" * 64,
        snapshots=(Snapshot("main", datetime(2026, 12, 1, tzinfo=UTC)),),
        files=(
            Entry(
                path=manifest.README,
                kind=Kind.README,
                bytes=len(files[manifest.README]),
                sha256=hashes[manifest.README],
            ),
            Entry(
                path="tables/bill.csv",
                kind=Kind.TABLE,
                bytes=len(HEADER),
                sha256=hashes["tables/bill.csv"],
                database=BILLS.database,
                table=BILLS.table,
                rows=0,
                columns=columns,
            ),
        ),
        omissions=(Omission(manifest.column_of(BILLS.database, BILLS.table, "street"), "not theirs"),),
        retained=kept,
    )
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(manifest.NAME, manifest.encode(msgspec.structs.replace(told, **changes)))
    return verify(zipfile.ZipFile(written)).problems


@pytest.mark.parametrize("language", languages())
def test_readme_and_manifest_agree_in_every_language(language: str) -> None:
    assert problems(BILLS, said=readme(BILLS, language=language)) == []


def test_a_record_may_say_that_nothing_is_kept() -> None:
    assert problems() == []


def test_an_archive_of_the_first_format_is_read_still() -> None:
    assert problems(format=manifest.FIRST_FORMAT, retained=None) == []


def test_a_disclosure_announces_no_purge() -> None:
    assert problems(occasion="disclosure", retained=None) == []


def changed(**values: Any) -> Callable[[], list[str]]:
    return lambda: problems(msgspec.structs.replace(BILLS, **values))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda: problems(retained=None), "does not say what a law makes the company keep"),
        (lambda: problems(BILLS, BILLS), "says more than once what is kept of"),
        (changed(table="shop.order"), "the archive has no such table"),
        (changed(database="main"), "the archive has no such table"),
        (changed(counted_from="paid"), "by its column paid, which it does not have"),
        (changed(redacted=("city",)), "by its column city, which it does not have"),
        (changed(legal_basis=" "), "names no law"),
        (changed(until=date(2026, 11, 30)), "until 2026-11-30, before the record was made"),
        (lambda: problems(BILLS, said=readme()), "README.txt does not say the same"),
        (lambda: problems(said=readme(), retained=(BILLS,)), "README.txt does not say the same"),
    ],
)
def test_the_verifier_says_what_cannot_be(found: Callable[[], list[str]], said: str) -> None:
    (problem,) = found()
    assert said in problem
