"""Adding to the chain of certificates (T25), in the transaction in which what is certified becomes true.

The same kind and subject again are the same certificate. Whoever adds waits for the one who adds at the time, and holds
the chain until the transaction ends: the last thing to do in one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from models.termination.certificate import Certificate, CertificateCopy, CertificateKind, called
from tasks.certificates.chain import CERTIFICATE_FORMAT, instant
from tasks.crypto import canonical_json
from tasks.crypto.signing import Signer, SigningKey
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('tenure.certificates', 0))")
LAST = text("SELECT number, sha256, key FROM tenure.certificates ORDER BY number DESC LIMIT 1")


@dataclass(frozen=True, slots=True)
class Issued:
    number: int
    #: As people call it.
    name: str
    #: Of what is signed.
    sha256: bytes
    issued_at: datetime


def issue(
    session: Session,
    signer: Signer,
    kind: CertificateKind,
    subject: UUID,
    *,
    termination_id: UUID,
    facts: Mapping[str, Any],
) -> Issued:
    """Add a certificate that says `facts`, which hold no personal data; the caller commits.

    Raises Permanent where nothing can be signed, or what cannot be said in canonical JSON.
    """
    key = signer.current
    session.execute(LOCK)
    if earlier := issued(session, kind, subject):
        return earlier
    last = session.execute(LAST).one_or_none()
    if last is None:
        _introduce(session, signer, key, by=key)
    elif last.key != key.public.name:
        # The new key is introduced by the one before, where we still have it; else by itself, which every check tells.
        _introduce(session, signer, key, by=signer.named(last.key) or key)
    return _add(session, signer, key, kind, subject, termination_id=termination_id, facts=facts)


def issued(session: Session, kind: CertificateKind, subject: UUID) -> Issued | None:
    """The certificate of this kind and subject, where there is one."""
    row = session.execute(
        select(Certificate.number, Certificate.sha256, Certificate.issued_at).where(
            Certificate.kind == kind, Certificate.subject == subject
        )
    ).one_or_none()
    return row and Issued(row.number, called(row.number, row.issued_at), row.sha256, row.issued_at)


def _introduce(session: Session, signer: Signer, key: SigningKey, *, by: SigningKey) -> None:
    facts = {"public_key": key.public.raw.hex(), "introduces": key.public.name}
    _add(session, signer, by, CertificateKind.KEY, uuid4(), termination_id=None, facts=facts)


def _add(
    session: Session,
    signer: Signer,
    key: SigningKey,
    kind: CertificateKind,
    subject: UUID,
    *,
    termination_id: UUID | None,
    facts: Mapping[str, Any],
) -> Issued:
    last = session.execute(LAST).one_or_none()
    number = last.number + 1 if last else 1
    now: datetime = session.execute(text("SELECT date_trunc('second', clock_timestamp())")).scalar_one()
    try:
        body = canonical_json.encode(
            {
                "format": CERTIFICATE_FORMAT,
                "number": number,
                "name": called(number, now),
                "kind": kind.value,
                "issuer": signer.issuer,
                "issued_at": instant(now),
                "previous": last.sha256.hex() if last else None,
                "key": key.public.name,
                **facts,
            }
        )
    except ValueError as error:
        raise Permanent(f"The certificate cannot be written: {error}.") from None
    sha256: bytes = session.execute(
        insert(Certificate)
        .values(
            number=number,
            kind=kind,
            subject=subject,
            termination_id=termination_id,
            body=body,
            sha256=hashlib.sha256(body).digest(),
            previous=last.sha256 if last else None,
            key=key.public.name,
            signature=key.sign(body),
            issued_at=now,
        )
        .returning(Certificate.sha256)
    ).scalar_one()
    session.execute(insert(CertificateCopy).values(number=number))
    failpoint("certificates", "before_commit")
    return Issued(number, called(number, now), sha256, now)
