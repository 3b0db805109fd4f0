"""EXPORT: frozen -> exporting -> sealed. The customer's record is made, stored sealed, and read back (P6.1, T7, T11).

It does not begin where the data map and a database disagree on what there is: then the record would lack something.
Each attempt writes an object of its own; the one whose step is recorded counts, and NOTIFY removes the others. The
window in which the record can be fetched begins when it is sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from functools import partial

from sqlalchemy import func, select

from email_templates.pages.archive_readme import record_readme
from models.customers.account_key import KeyPurpose
from models.data_map import check
from models.data_map.map import MAIN
from models.termination.termination import Stage, Step, Termination
from tasks.cases.case import Case, Next, StepResult, enter
from tasks.crypto.age import Sealed, SealError
from tasks.engine.failpoints import failpoint
from tasks.engine.job import ClaimedRow
from tasks.export.archive import Archive, Export, export, map_sha256
from tasks.export.manifest import RetainedEntry
from tasks.export.retained import entries_of, for_a_person
from tasks.failures import Permanent
from tasks.ports.context import Estate, Ports
from tasks.purge.tables import catalogues
from tasks.termination.progress import ExportNotes


def make_record(case: Case, claimed: ClaimedRow) -> StepResult:
    ports, estate = claimed.ports, claimed.ports.estate()
    _refuse_unknown(estate)
    case = enter(case, claimed, Stage.EXPORTING)
    failpoint("terminations.export", "after_enter")

    def still_ours() -> None:
        # Whoever was overtaken, or whose termination was taken back, leaves no object.
        enter(case, claimed, Stage.EXPORTING)

    exported = export(
        ports,
        estate.map,
        _archive(case, ports, estate),
        run=claimed.token,
        databases={name: each for name, each in estate.databases.items() if name != MAIN},
        before_complete=still_ours,
        watch=ExportNotes(case, claimed),
    )
    with ports.database.transaction() as session:
        sealed_at = session.scalars(select(func.now())).one()
    available_until = sealed_at + ports.terms.window
    return StepResult(
        stage=Stage.SEALED,
        changes={
            "archive_key": exported.key,
            "archive_sha256": exported.archive_sha256,
            "manifest_sha256": exported.manifest_sha256,
            "archive_size": exported.size,
            "content_size": exported.content_size,
            "exported_rows": _by_database(exported),
            "exported_objects": exported.objects,
            "map_sha256": bytes.fromhex(map_sha256(estate.map)),
            "sealed_at": sealed_at,
            "available_until": available_until,
        },
        evidence={"rows": sum(exported.rows.values()), "objects": exported.objects, "bytes": exported.size},
        steps=(Next(Step.NOTIFY), Next(Step.RETIRE_ARCHIVE, due=available_until)),
    )


def archive_of(case: Case) -> Archive:
    """The archive of this termination, whichever of its runs counts."""
    return Archive(case.id, case.account, readme="")


def _archive(case: Case, ports: Ports, estate: Estate) -> Archive:
    """The same, with what it says about itself, and of what a law makes us keep after the purge (T8)."""
    with ports.database.transaction() as session:
        today = session.scalars(select(func.now())).one().astimezone(UTC).date()
        kept = entries_of(session, estate.map, today + ports.terms.window)
    return replace(archive_of(case), readme=_readme(case, ports, kept), retained=kept)


def opened(ports: Ports, termination: Termination) -> Sealed:
    """The record as it lies in the object store. Raises Permanent where it is gone, changed, or cannot be opened."""
    if termination.archive_key is None or termination.archive_size is None:
        raise Permanent("There is no record of the account's data yet.")
    with ports.database.transaction() as session:
        identity = ports.keyring.identity(session, termination.account_id, KeyPurpose.EXPORT, termination.id)
    try:
        return Sealed(partial(ports.objects.read, termination.archive_key), termination.archive_size, identity)
    except SealError as error:
        raise Permanent(f"The record in the object store cannot be opened: {error}") from None


def _refuse_unknown(estate: Estate) -> None:
    """Raises Permanent where map and databases disagree (T7)."""
    found = [each for each in check.compare(estate.map, catalogues(estate)) if each.stops]
    if found:
        raise Permanent(
            f"The export does not begin: {found[0]}"
            + (f", and {len(found) - 1} more like it" if len(found) > 1 else "")
            + ". `tenure datamap check` lists what is to be mended; then retry."
        )


def _readme(case: Case, ports: Ports, kept: Sequence[RetainedEntry]) -> str:
    """In the language of the one who was the account's contact for the longest."""
    about = case.termination.correspondence or {}
    contacts = about.get("contacts", ())
    return record_readme(
        company=ports.letterhead.company,
        account_name=about.get("account_name", case.account.ref),
        language=contacts[0]["language"] if contacts else "en",
        kept=for_a_person(kept),
    )


def _by_database(exported: Export) -> Mapping[str, Mapping[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for (database, table), counted in exported.rows.items():
        rows.setdefault(database, {})[table] = counted
    return rows
