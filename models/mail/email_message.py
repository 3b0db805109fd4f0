"""An e-mail: one message to one recipient, queued in the transaction that gave the reason for it (E2, E10)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, timestamp, uuid7
from models.data_map.map import Category, Personal
from models.work.row import Work


class EmailState(StrEnum):
    """`done` means that the mail server took the message over; `unknown`, that nobody can tell (E10).

    `suppressed` means that the address is not written to any more (E11).
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    SUPPRESSED = "suppressed"


class EmailMessage(Work, Base):
    """A work row that is done when the mail server accepted the message.

    It is written to a contact of an account; or it is about a termination, which goes on when the contacts are frozen
    and when they are gone. Then it belongs to the termination alone, is no part of the account's data, and has with it
    what a contact's row would say.

    `committing_at` is set, and committed, just before the final dot is sent. A row that is found `running` without it
    was certainly not sent and is tried again; with it, a crash leaves `unknown`, which is never blindly repeated.
    The body is rendered when it is sent and not stored (E12); `context` holds what the catalogue's class asks for.
    """

    __tablename__ = "email_messages"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id contact_id message to_address context attachments urgent message_id accepted_by "
        "accepted_as",
        left_out={
            "dedupe_key": "made of ids of other rows, so that a message is queued once",
            "committing_at": "how far the last attempt to send came",
            "content_sha256": "proof of what was sent, and nothing that can be read from it",
            "sent_again_at": "how far the last attempt to send came",
            "forgotten_at": "when the message's data were deleted",
            "termination_id": "nothing: a message that has one is none of an account's own",
            "recipient": "nothing: a message to a contact has none",
        },
    )
    states = EmailState
    #: What a row becomes when its worker vanished.
    abandoned = "CASE WHEN committing_at IS NULL THEN 'pending' ELSE 'unknown' END"
    irrevocable = "committing_at IS NOT NULL"
    #: Who sends an `unknown` message again has decided that it was not sent.
    retried = ", committing_at = NULL"
    #: Until the mark, whoever sends it looks once more before anything leaves.
    cancellable = "state IN ('pending', 'failed') OR state = 'running' AND committing_at IS NULL"
    stoppable = "state = 'pending' OR state = 'running' AND committing_at IS NULL"
    under_way = "state = 'running' AND committing_at IS NOT NULL"
    __table_args__ = (
        CheckConstraint(
            "CASE WHEN termination_id IS NULL THEN num_nonnulls(account_id, contact_id) = 2 AND recipient IS NULL"
            " ELSE num_nonnulls(account_id, contact_id) = 0 AND recipient IS NOT NULL END",
            name="recipient",
        ),
        # What may be out is never due again, and never counts as failed, without a decision that it was not sent.
        CheckConstraint("committing_at IS NULL OR state IN ('running', 'done', 'unknown')", name="committing_at"),
        Index(None, "account_id"),
        Index(None, "contact_id"),
        # Which kinds of message there are, of however many rows (P3.1e).
        Index(None, "message"),
        Index(None, "termination_id", postgresql_where=text("termination_id IS NOT NULL")),
        # Urgent mail is found at once behind any backlog of bulk mail (W8).
        Index(
            "ix_email_messages_urgent_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'pending' AND crashes = 0 AND urgent"),
        ),
        # What a new suppression ends.
        Index(
            "ix_email_messages_waiting_address",
            text("lower(to_address)"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_email_messages_unknown", "finished_at", postgresql_where=text("state = 'unknown'")),
        Index(
            "ix_email_messages_remembered",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL AND forgotten_at IS NULL"),
        ),
        Index(None, "accepted_as"),
        *Work.indexes("email_messages"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.id"))
    contact_id: Mapped[UUID | None] = mapped_column(ForeignKey("contacts.id"))
    termination_id: Mapped[UUID | None] = mapped_column(ForeignKey("terminations.id"))
    #: Of a message about a termination, who gets it: `{"name", "language", "time_zone"}`; `{}` when that was deleted.
    recipient: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    #: A name of the closed catalogue (E1).
    message: Mapped[str] = mapped_column(Text)
    to_address: Mapped[str] = mapped_column(Text)
    context: Mapped[dict[str, Any]] = mapped_column(JSONB)
    #: Objects to attach: `[{"key", "filename", "content_type"}]`.
    attachments: Mapped[list[dict[str, str]]] = mapped_column(JSONB, server_default=text("'[]'"))
    urgent: Mapped[bool] = mapped_column(server_default=text("false"))
    #: What makes a second row for the same occasion impossible.
    dedupe_key: Mapped[str] = mapped_column(Text, unique=True)
    #: RFC 5322, without the angle brackets; the same at every attempt.
    message_id: Mapped[str] = mapped_column(Text, unique=True)
    committing_at: Mapped[timestamp | None]
    #: The transport that took it over, and what that said: the answer to the final dot, or the name it gave it.
    accepted_by: Mapped[str | None] = mapped_column(Text)
    accepted_as: Mapped[str | None] = mapped_column(Text)
    #: SHA-256 of the message as it went over the wire; composed again from the same data, it is the same.
    content_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    #: When it was sent a second time because nobody could tell of the first: at most once (E10).
    sent_again_at: Mapped[timestamp | None]
    #: When context and address were deleted (E12); of the address a hash stays.
    forgotten_at: Mapped[timestamp | None]
