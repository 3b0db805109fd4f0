"""Certificates: each says what was erased, is signed, and holds the hash of the one before (T25).

The table only grows: triggers (`models/schema/sql/190_certificates.sql`) refuse every change, a number out of turn, a
`previous` that is not the hash of the certificate before, and a certificate of a purge that was not verified. So one
that is removed or altered by force shows as a gap or as a hash that does not fit, to whoever has the public key.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, LargeBinary, Text, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Ignored, Shared
from models.work.row import Work


class CertificateKind(StrEnum):
    """What a certificate says."""

    #: From here on this key signs.
    KEY = "key"
    #: All of an account's data were erased; `subject` is the termination.
    PURGE = "purge"
    #: The record of the data, which the customer could fetch, was erased, too (T18); `subject` is the termination.
    ARCHIVE = "archive"
    #: What a law made us keep was erased when its time was over (T8); `subject` is the retention.
    RETENTION = "retention"


class Certificate(Base):
    __tablename__ = "certificates"
    __data_map__ = Ignored(
        "proof of what was erased: ids, instants, counts and hashes, and nothing by which anybody is known"
    )
    __table_args__ = (
        UniqueConstraint("kind", "subject"),
        CheckConstraint("length(sha256) = 32 AND length(previous) = 32 AND length(signature) = 64", name="lengths"),
        CheckConstraint("(number = 1) = (previous IS NULL)", name="first"),
        CheckConstraint("(kind = 'key') = (termination_id IS NULL)", name="termination"),
    )

    #: 1, 2, 3 ... without a gap.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[CertificateKind] = mapped_column(one_of(CertificateKind, name="kind"))
    #: Of what; for a key it is drawn at random.
    subject: Mapped[UUID] = mapped_column(Uuid)
    termination_id: Mapped[UUID | None] = mapped_column(ForeignKey("terminations.id"), index=True)
    #: What is signed: canonical JSON, byte for byte.
    body: Mapped[bytes] = mapped_column(LargeBinary)
    #: Of the body.
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    #: The `sha256` of the certificate before.
    previous: Mapped[bytes | None] = mapped_column(LargeBinary)
    #: The name of the key that signed.
    key: Mapped[str] = mapped_column(Text)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    issued_at: Mapped[timestamp]


class CertificateCopy(Work, Base):
    """Puts a certificate into the object store, too, where no restored backup of the database makes it undone."""

    __tablename__ = "certificate_copies"
    __data_map__ = Shared("which certificates were copied, and nothing about anybody")
    __table_args__ = (UniqueConstraint("number"), *Work.indexes("certificate_copies"))

    kept: ClassVar[timedelta | None] = timedelta(days=30)

    id: Mapped[uuid7]
    number: Mapped[int] = mapped_column(ForeignKey("certificates.number"))


class ErasureReplay(Base):
    """An erasure of the ledger in the object store that a restored database was taught again (T26)."""

    __tablename__ = "erasure_replays"
    __data_map__ = Ignored("which erasures were repeated after a backup was restored: ids and instants")

    #: No foreign key: the termination of an account that the backup did not know yet is not made again.
    termination_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    #: Whether the database had the account at all.
    found: Mapped[bool]
    replayed_at: Mapped[recorded]


def called(number: int, issued_at: datetime) -> str:
    """How people call a certificate: PC-2026-00019. The number alone counts; the year is that of its issue, in UTC."""
    return f"PC-{issued_at:%Y}-{number:05}"
