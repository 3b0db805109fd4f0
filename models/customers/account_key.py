"""A key of an account: what lies sealed in the object store can be read as long as this row has its secret (T17, T27).

Everything is sealed for the `recipient`, which is no secret. The secret half is here too, wrapped by a key-encryption
key that is in no database (`TENURE_KEY_ENCRYPTION_KEYS`). To destroy it makes every copy unreadable, wherever it lies:
in old versions, in replicas, in backups of the bucket.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, Text, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Ignored


class KeyPurpose(StrEnum):
    #: One archive of the account's data; `subject` is the archive's id. It ends with the archive's window (T18).
    EXPORT = "export"
    #: The account's objects: submitted files, documents. It ends with the purge (T27).
    OBJECTS = "objects"


class AccountKey(Base):
    """One for each purpose and subject. `wrapped_secret` is gone once the key is destroyed; the row stays as proof."""

    __tablename__ = "account_keys"
    __data_map__ = Ignored(
        "keys and nothing about anybody; each is destroyed by a step of its own, that of the objects with the purge, "
        "that of an archive when its window ends, and the row stays as proof of it"
    )
    __table_args__ = (
        UniqueConstraint("account_id", "purpose", "subject", postgresql_nulls_not_distinct=True),
        CheckConstraint("(purpose = 'export') = (subject IS NOT NULL)", name="subject"),
        CheckConstraint("(wrapped_secret IS NULL) = (destroyed_at IS NOT NULL)", name="destroyed"),
        CheckConstraint("length(recipient) = 32", name="recipient"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    purpose: Mapped[KeyPurpose] = mapped_column(one_of(KeyPurpose, name="purpose"))
    subject: Mapped[UUID | None] = mapped_column(Uuid)
    #: An X25519 public key.
    recipient: Mapped[bytes] = mapped_column(LargeBinary)
    #: Nonce and AES-256-GCM of the X25519 secret key; the ids of row and account are authenticated with it.
    wrapped_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    #: Which key-encryption key wrapped it: the first 8 bytes of its SHA-256, in hexadecimal.
    wrapped_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[recorded]
    destroyed_at: Mapped[timestamp | None]
