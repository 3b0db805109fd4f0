"""What the web tier asked for, what may be asked for, and what could not be understood (W5)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, timestamp, uuid7
from models.data_map.map import Category, Ignored, Personal, Shared
from models.work.row import Work


class RequestKind(Base):
    """A kind of request and its fields, published by `tenure migrate` from the typed classes in
    `tasks/client/requests.py`.

    `fields` maps a field's name to `{"type": "account" | "uuid" | "text" | "date" | "integer" | "boolean",
    "required": bool}`; the SQL function `tenure.request` checks arguments against it, for every way in.
    """

    __tablename__ = "request_kinds"
    __data_map__ = Shared("what may be asked for; the same for every customer")

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(SmallInteger)
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)
    #: The ways in by which it may come: `sql`, `queue`, `operator`.
    ways: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{sql,queue,operator}'"))


class JobRequest(Work, Base):
    """A request that was understood: a work row that is done when its effect is committed."""

    __tablename__ = "job_requests"
    #: The same dedupe key asks anew after that.
    kept = timedelta(days=90)
    __data_map__ = Personal(Category.PLATFORM, exported="id kind args account_id dedupe_key source")
    __table_args__ = (
        UniqueConstraint("kind", "dedupe_key"),
        CheckConstraint("source IN ('sql', 'queue', 'operator')", name="source"),
        Index(None, "account_id"),
        *Work.indexes("job_requests"),
    )

    id: Mapped[uuid7]
    kind: Mapped[str] = mapped_column(Text)
    args: Mapped[dict[str, Any]] = mapped_column(JSONB)
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.id"))
    dedupe_key: Mapped[str | None] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text, server_default="sql")


class Quarantined(Base):
    """A message from the queue that could not be accepted, whole, with the reason. Nothing is dropped."""

    __tablename__ = "quarantine"
    __data_map__ = Ignored(
        "messages that nobody could understand, nor therefore of whom they speak; the web tier sends ids alone, and an "
        "operator reads each one"
    )
    __table_args__ = (
        Index("ix_quarantine_waiting", "received_at", postgresql_where=text("replayed_at IS NULL")),
        Index("ix_quarantine_replayed", "replayed_at", postgresql_where=text("replayed_at IS NOT NULL")),
    )

    id: Mapped[uuid7]
    received_at: Mapped[recorded]
    #: The message's own id: delivered twice, it is kept once.
    message_id: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str | None] = mapped_column(Text)
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    #: The message as it came, byte for byte.
    body: Mapped[bytes] = mapped_column(LargeBinary)
    reason: Mapped[str] = mapped_column(Text)
    replayed_at: Mapped[timestamp | None]
