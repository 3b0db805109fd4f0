"""What a customer submitted for storage: records and files (P2.1c)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Computed, ForeignKey, Index, LargeBinary, Text, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, ObjectPrefix, Personal


class SubmittedRecord(Base):
    """One JSON document of a customer's, under the application's own key; saved again, it is replaced."""

    __tablename__ = "submitted_records"
    __data_map__ = Personal(
        Category.SUBMITTED, exported="id account_id kind external_ref content created_at updated_at"
    )
    __table_args__ = (UniqueConstraint("account_id", "kind", "external_ref"),)

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: What it is to the application: `order-template`, `note`.
    kind: Mapped[str] = mapped_column(Text)
    #: The application's own key of the record within its kind.
    external_ref: Mapped[str] = mapped_column(Text)
    content: Mapped[Any] = mapped_column(JSONB)
    created_at: Mapped[recorded]
    updated_at: Mapped[recorded]


class FileState(StrEnum):
    #: The object is being written. Only a row in `stored` says that its object is there and whole.
    UPLOADING = "uploading"
    STORED = "stored"
    #: The object is to be removed, and then the row.
    DISCARDED = "discarded"


class SubmittedFile(Base):
    """One file of a customer's: this row, and an object under the account's own prefix.

    The row is committed as `uploading` before the first byte is sent, so there is no object without a row, and becomes
    `stored` after the object is whole, so no row in `stored` lacks its object. `tasks/client/files.py` has the calls
    and the list of what may go wrong in between.
    """

    __tablename__ = "submitted_files"
    __data_map__ = Personal(
        Category.SUBMITTED,
        exported="id account_id object_key name media_type size sha256 state created_at stored_at",
        objects=(ObjectPrefix("files/{account_id}/", Category.SUBMITTED, sealed=True),),
    )
    __table_args__ = (
        CheckConstraint("state <> 'stored' OR (size >= 0 AND length(sha256) = 32 AND stored_at IS NOT NULL)", "stored"),
        CheckConstraint("length(name) BETWEEN 1 AND 255", name="name"),
        Index(None, "account_id", "created_at"),
        Index("ix_submitted_files_unsettled", "created_at", postgresql_where=sql("state <> 'stored'")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    state: Mapped[FileState] = mapped_column(one_of(FileState, name="state"), server_default=FileState.UPLOADING)
    #: Made of ids alone: what the customer called the file is no part of it.
    object_key: Mapped[str] = mapped_column(
        Text, Computed("'files/' || account_id::text || '/' || id::text", persisted=True)
    )
    #: As the customer called it. It is data, not a path: whoever writes it to a disk or an archive makes it safe.
    name: Mapped[str] = mapped_column(Text)
    #: As the web tier determined it (RFC 6838).
    media_type: Mapped[str] = mapped_column(Text, server_default="application/octet-stream")
    #: In bytes.
    size: Mapped[int | None] = mapped_column(BigInteger)
    #: Of the content as it came from the customer.
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[recorded]
    stored_at: Mapped[timestamp | None]
