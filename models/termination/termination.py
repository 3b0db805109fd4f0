"""The end of a contract: one row a termination, and one work row for each step of it (P6.1, T1).

    requested -> grace -> frozen -> exporting -> sealed -> delivered -> purging -> verifying -> certified
        |          |        |           |          |           |
        '----------'--------'-----------'----------'-----------'--> cancelled
    held and failed lie beside it: from any stage that is not an end, and back to the very stage it came from

A trigger (`models/schema/sql/180_terminations.sql`) refuses every other change, and constraints refuse a purge without
a record that was sealed and delivered (T2). The stage says what is true of the account; the steps say what is to be
done next, and when: a step that is done advances the stage and makes the next step's row in the same transaction.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Ignored, Shared
from models.work.row import Work


class Stage(StrEnum):
    """How far a termination came."""

    #: Notice was given; the contract still runs.
    REQUESTED = "requested"
    #: The contract is over; the customer may still change its mind.
    GRACE = "grace"
    #: Nothing is written for the account any more.
    FROZEN = "frozen"
    EXPORTING = "exporting"
    #: The record is stored, read back and hashed.
    SEALED = "sealed"
    #: The customer has it, or had every chance (T2).
    DELIVERED = "delivered"
    PURGING = "purging"
    VERIFYING = "verifying"
    CERTIFIED = "certified"
    CANCELLED = "cancelled"
    #: A legal hold keeps the data; it goes on by itself when that is released (T22).
    HELD = "held"
    #: A step failed for good; goes on when a person has mended the cause and retries the step.
    FAILED = "failed"


class DeliveredBy(StrEnum):
    """How the record counts as delivered (T2)."""

    DOWNLOAD = "download"
    #: The notice was accepted, all reminders were sent, and the window is over.
    NOTICE = "notice"


class Termination(Base):
    """One termination of one account. It outlives the purge as proof of it, and then says nothing about anybody.

    `correspondence` is the one exception: whom to write to about the end, taken from the contacts at the freeze, since
    these are purged before the last message is sent. It is deleted when that was accepted, or its time is over.
    """

    __tablename__ = "terminations"
    __data_map__ = Ignored(
        "proof of the termination itself: ids, instants and hashes. The addresses for its own last messages are "
        "removed by its last step, which the certificate names"
    )
    __table_args__ = (
        Index(
            "uq_terminations_open_account_id",
            "account_id",
            unique=True,
            postgresql_where=text("stage <> 'cancelled'"),
        ),
        Index("ix_terminations_going_on", "stage", postgresql_where=text("stage NOT IN ('cancelled', 'certified')")),
        Index("ix_terminations_certified", "certified_at", postgresql_where=text("stage = 'certified'")),
        CheckConstraint("(stage IN ('held', 'failed')) = (stage_before IS NOT NULL)", name="stage_before"),
        CheckConstraint(
            "coalesce(stage_before, stage) NOT IN ('sealed', 'delivered', 'purging', 'verifying', 'certified')"
            " OR (archive_key IS NOT NULL AND archive_sha256 IS NOT NULL AND manifest_sha256 IS NOT NULL"
            " AND exported_rows IS NOT NULL AND sealed_at IS NOT NULL)",
            name="sealed",
        ),
        CheckConstraint(
            "coalesce(stage_before, stage) NOT IN ('delivered', 'purging', 'verifying', 'certified')"
            " OR (delivered_at IS NOT NULL AND delivered_by IS NOT NULL)",
            name="delivered",
        ),
        CheckConstraint("stage <> 'certified' OR (verified_at IS NOT NULL AND certified_at IS NOT NULL)", "certified"),
        CheckConstraint("length(archive_sha256) = 32 AND length(manifest_sha256) = 32", name="hashes"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    stage: Mapped[Stage] = mapped_column(one_of(Stage, name="stage"), server_default=Stage.REQUESTED)
    #: Where `held` and `failed` go back to.
    stage_before: Mapped[Stage | None] = mapped_column(one_of(Stage, name="stage_before_names"))
    #: The way the request came: `sql`, `queue`, `operator`.
    requested_by: Mapped[str] = mapped_column(Text)
    requested_at: Mapped[recorded]
    #: When the contract ends and the time of grace begins.
    ends_at: Mapped[timestamp]
    #: Until then it can be cancelled for nothing; then the account is frozen.
    cancel_until: Mapped[timestamp]
    frozen_at: Mapped[timestamp | None]
    #: What to write to whom: `{"account_name", "account_ref", "contacts": [{"name", "email", "language",
    #: "time_zone"}]}`.
    correspondence: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    #: The record: key of the object, SHA-256 of the sealed file and of the manifest in it, bytes of it and of the ZIP.
    archive_key: Mapped[str | None] = mapped_column(Text)
    archive_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    manifest_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    archive_size: Mapped[int | None] = mapped_column(BigInteger)
    content_size: Mapped[int | None] = mapped_column(BigInteger)
    #: Rows by database and table as the record holds them, `{"main": {"tenure.contacts": 3}}`: what a purge has to find
    #: (T11).
    exported_rows: Mapped[dict[str, dict[str, int]] | None] = mapped_column(JSONB(none_as_null=True))
    exported_objects: Mapped[int | None] = mapped_column(BigInteger)
    #: SHA-256 of the data map that the record was made with.
    map_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    sealed_at: Mapped[timestamp | None]
    #: Until when the record can be fetched; then it is purged, too (T18).
    available_until: Mapped[timestamp | None]
    downloaded_at: Mapped[timestamp | None]
    delivered_at: Mapped[timestamp | None]
    delivered_by: Mapped[DeliveredBy | None] = mapped_column(one_of(DeliveredBy, name="delivered_by"))
    purge_began_at: Mapped[timestamp | None]
    verified_at: Mapped[timestamp | None]
    certified_at: Mapped[timestamp | None]
    cancelled_at: Mapped[timestamp | None]
    #: When the record itself was purged, and its key destroyed.
    archive_purged_at: Mapped[timestamp | None]


class Step(StrEnum):
    """What is done for a termination, in this order."""

    #: The mail before the end of a contract that still runs for a while.
    ANNOUNCE = "announce"
    #: requested -> grace
    BEGIN = "begin"
    #: grace -> frozen
    FREEZE = "freeze"
    #: frozen -> exporting -> sealed
    EXPORT = "export"
    #: The mail with the link.
    NOTIFY = "notify"
    #: `number` 1, 2, ...: the mail again, as long as nobody fetched the record.
    REMIND = "remind"
    #: sealed -> delivered
    DELIVER = "deliver"
    #: delivered -> purging
    PURGE = "purge"
    #: The second pass, after a quiet time (T23); purging -> verifying
    PURGE_AGAIN = "purge_again"
    #: Counts, another way; stays in verifying.
    VERIFY = "verify"
    #: verifying -> certified
    CERTIFY = "certify"
    #: The last message was accepted or given up: the addresses go.
    FORGET = "forget"
    #: The record's own window is over: it and its key go (T18).
    RETIRE_ARCHIVE = "retire_archive"


class TerminationStep(Work, Base):
    """One step: a work row that is done when its effect is committed.

    Where one fails for good, its termination is `failed` until a person retries the step; a trigger sees to it. No step
    is taken out of the work by itself: a termination is cancelled as a whole.
    """

    __tablename__ = "termination_steps"
    __data_map__ = Shared("how far terminations came, and nothing about anybody")
    cancellable = "false"
    __table_args__ = (
        Index("uq_termination_steps_step", "termination_id", "step", "number", unique=True),
        *Work.indexes("termination_steps"),
    )

    id: Mapped[uuid7]
    termination_id: Mapped[UUID] = mapped_column(ForeignKey("terminations.id"))
    step: Mapped[Step] = mapped_column(one_of(Step, name="step"))
    number: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    #: What the step saw and did, without personal data: counts, hashes, answers.
    evidence: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
