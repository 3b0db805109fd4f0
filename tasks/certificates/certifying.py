"""CERTIFY: what was erased, from the evidence that each step has left; and later what had been kept until then (T25).

Everything here is read from rows that were written in the transactions that did it. Nothing personal is among them:
ids, instants, counts, hashes, and names of stores as the data map writes them. Of a legal hold it is told from when to
when; its reference may have a name in it, and stays in `tenure.legal_holds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.termination import PurgeCompleted
from models.data_map.map import MAIN, DataMap
from models.termination.certificate import CertificateKind
from models.termination.legal_hold import LegalHold
from models.termination.purge import StoreKind
from models.termination.termination import Stage, Step, Termination
from tasks.cases.case import Case, Next, StepResult
from tasks.cases.correspondence import correspondents, queue_mail
from tasks.certificates.chain import instant
from tasks.certificates.issuing import Issued, issue
from tasks.crypto.signing import Signer
from tasks.engine.job import ClaimedRow
from tasks.export.retained import retained
from tasks.failures import Permanent
from tasks.ports.context import Ports

#: When it is first looked whether the last message was accepted, so that its addresses can go.
FORGOTTEN_AFTER: Final = timedelta(hours=1)
#: The occasion of the last message.
COMPLETED: Final = "purged"
NOTE: Final = "The addresses for the last message are erased when it was accepted, or a week later."
TIMES: Final = (
    "requested_at", "ends_at", "frozen_at", "sealed_at", "delivered_at", "purge_began_at", "verified_at",
)  # fmt: skip

#: Each store once: what the first pass found, and what all passes erased.
_STORES = text("""
    SELECT kind, place, store, (array_agg(method ORDER BY pass_number))[1] AS method,
           (array_agg(expected ORDER BY pass_number))[1] AS found, sum(removed)::bigint AS erased,
           (array_agg(kept ORDER BY pass_number DESC))[1] AS kept, max(pass_number) AS passes,
           bool_and(done_at IS NOT NULL) AS done,
           (array_agg(remark ORDER BY pass_number DESC) FILTER (WHERE remark IS NOT NULL))[1] AS remark
      FROM tenure.purge_stores WHERE termination_id = :termination
     GROUP BY kind, place, store ORDER BY min(number), kind, place, store""")
_KEYS = text("""
    SELECT count(*) FROM tenure.account_keys
     WHERE account_id = :account AND purpose = 'objects' AND destroyed_at IS NOT NULL""")
_VERIFIED = text("""
    SELECT evidence FROM tenure.termination_steps
     WHERE termination_id = :termination AND step = 'verify' AND state = 'done' ORDER BY number DESC LIMIT 1""")
_UNTIL = text("SELECT (CAST(:at AS timestamptz) AT TIME ZONE 'UTC' + CAST(:duration AS interval))::date")


def certify(case: Case, claimed: ClaimedRow) -> StepResult:
    """verifying -> certified, with the certificate in the same transaction."""
    ports = claimed.ports
    _ = ports.signer.current
    mapped = ports.estate().map
    with ports.database.transaction() as session:
        facts = purge_facts(session, mapped, case.termination)

    def record(session: Session) -> None:
        made = issue(session, ports.signer, CertificateKind.PURGE, case.id, termination_id=case.id, facts=facts)
        _tell(session, case, made, facts["stores"], ports)

    return StepResult(
        stage=Stage.CERTIFIED,
        changes={"certified_at": func.clock_timestamp()},
        evidence={"stores": len(facts["stores"])},
        steps=(Next(Step.FORGET, due=FORGOTTEN_AFTER),),
        record=record,
    )


def _tell(session: Session, case: Case, made: Issued, stores: Sequence[Mapping[str, Any]], ports: Ports) -> None:
    """Queue the last message, to those who were the account's contacts."""

    def found(kind: StoreKind) -> int:
        return sum(each["found"] or 0 for each in stores if each["kind"] == kind)

    context = PurgeCompleted(
        account_ref=case.account.ref,
        completed_at=made.issued_at,
        records=found(StoreKind.TABLE),
        files=found(StoreKind.OBJECTS),
        certificate_number=made.name,
        sha256=made.sha256.hex(),
        retained=retained(session, ports, made.issued_at.date()),
    )
    termination = session.get_one(Termination, case.id)
    whom = correspondents(session, termination)
    queue_mail(session, termination, [(each, context) for each in whom], COMPLETED, ports)


def purge_facts(session: Session, mapped: DataMap, termination: Termination) -> dict[str, Any]:
    """What the certificate of a purge says. Raises Permanent where evidence is missing."""
    rows = session.execute(_STORES, {"termination": termination.id}).all()
    undone = [row.store for row in rows if not row.done]
    if termination.verified_at is None or not rows or undone:
        raise Permanent(
            "There is no evidence that all was erased, so there is no certificate: "
            + (f"the purge of {undone[0]} has not ended." if undone else "the termination was not verified.")
        )
    verified: Mapping[str, Any] = session.execute(_VERIFIED, {"termination": termination.id}).scalar() or {}
    order = {kind: number for number, kind in enumerate(StoreKind)}
    stores = [
        {
            "kind": row.kind,
            "place": row.place,
            "store": row.store,
            "method": row.method,
            "found": row.found,
            "erased": row.erased,
            "kept": row.kept,
            "passes": row.passes,
            **({"remark": row.remark} if row.remark else {}),
        }
        for row in sorted(rows, key=lambda row: order[StoreKind(row.kind)])
    ]
    return {
        "termination": str(termination.id),
        "account": str(termination.account_id),
        "times": {name: _written(getattr(termination, name)) for name in TIMES}
        | {"delivered_by": termination.delivered_by},
        "record": {
            "rows": sum(sum(tables.values()) for tables in (termination.exported_rows or {}).values()),
            "objects": termination.exported_objects or 0,
            "archive_sha256": _hex(termination.archive_sha256),
            "manifest_sha256": _hex(termination.manifest_sha256),
        },
        "map_sha256": _hex(termination.map_sha256),
        "stores": stores,
        "verification": {"stores": len(stores), "left": verified.get("left", 0)},
        "keys_destroyed": session.execute(_KEYS, {"account": termination.account_id}).scalar_one(),
        "exceptions": _exceptions(session, mapped, termination, stores),
        "holds": _holds(session, termination.account_id),
        "note": NOTE,
    }


def archive_retired(session: Session, signer: Signer, termination_id: UUID) -> Issued:
    """Certify that the record itself was erased, and its key destroyed (T18); in the caller's transaction."""
    termination = session.get_one(Termination, termination_id)
    facts = {
        "termination": str(termination.id),
        "account": str(termination.account_id),
        "record": {
            "rows": sum(sum(tables.values()) for tables in (termination.exported_rows or {}).values()),
            "objects": termination.exported_objects or 0,
            "archive_sha256": _hex(termination.archive_sha256),
            "manifest_sha256": _hex(termination.manifest_sha256),
        },
        "note": "The record could be fetched until its time was over. Then it and its key were erased.",
    }
    return issue(session, signer, CertificateKind.ARCHIVE, termination_id, termination_id=termination_id, facts=facts)


def retention_ended(
    session: Session, signer: Signer, retention_id: UUID, termination_id: UUID, facts: Mapping[str, Any]
) -> Issued:
    """Certify that what a law made us keep was erased when its time was over (T8); in the caller's transaction.

    `facts`: `stores` with kind, place, store, method, found, erased and kept, and `legal_basis`.
    """
    termination = session.get_one(Termination, termination_id)
    about = {
        "termination": str(termination.id),
        "account": str(termination.account_id),
        "retention": str(retention_id),
    }
    return issue(
        session,
        signer,
        CertificateKind.RETENTION,
        retention_id,
        termination_id=termination_id,
        facts={**about, **facts},
    )


def _exceptions(
    session: Session, mapped: DataMap, termination: Termination, stores: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What stays because a law demands it, and until when at the latest."""
    retained = {(each.database, str(each.name)): each.retention for each in mapped.tables if each.retention}
    found: list[dict[str, Any]] = []
    for each in stores:
        retention = retained.get((each["place"] or MAIN, each["store"]))
        if each["kind"] == StoreKind.TABLE and retention is not None and each["kept"]:
            values = {"at": termination.purge_began_at, "duration": retention.duration}
            until = session.execute(_UNTIL, values).scalar_one()
            found.append(
                {
                    "store": each["store"],
                    "rows": each["kept"],
                    "legal_basis": retention.legal_basis,
                    "duration": retention.duration,
                    "until": until.isoformat(),
                    "redacted": sorted(retention.redacted),
                }
            )
    return found


def _holds(session: Session, account_id: UUID) -> list[dict[str, Any]]:
    holds = session.execute(
        select(LegalHold.id, LegalHold.placed_at, LegalHold.released_at)
        .where(LegalHold.account_id == account_id)
        .order_by(LegalHold.placed_at, LegalHold.id)
    )
    return [
        {"hold": str(row.id), "placed_at": _written(row.placed_at), "released_at": _written(row.released_at)}
        for row in holds
    ]


def _written(moment: datetime | None) -> str | None:
    return instant(moment) if moment else None


def _hex(sha256: bytes | None) -> str | None:
    return sha256.hex() if sha256 is not None else None
