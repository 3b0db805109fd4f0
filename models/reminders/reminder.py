"""Letters that remind a customer of what is due, what they reminded of, and what holds them back (B14 to B17)."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal
from models.reminders.policy import ReminderLevel


class LetterKind(StrEnum):
    REMINDER = "reminder"
    PROMISE_BROKEN = "promise_broken"


class ReminderLetter(Base):
    """What one customer is written to on one day, in one currency, over all its invoices (B16).

    Its copies, one to each contact who gets the bills, are rows of `email_messages`. A letter none of whose copies left
    is withdrawn: then its day and the steps that it named are free again.
    """

    __tablename__ = "reminder_letters"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id currency kind local_day level pay_by written_at withdrawn_at",
        left_out={"settled_at": "when nothing about it was left to do"},
    )
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("(kind = 'reminder') = (level IS NOT NULL)", name="level_of_kind"),
        CheckConstraint("withdrawn_at IS NULL OR settled_at IS NOT NULL", name="settled_at"),
        Index(
            "uq_reminder_letters_day",
            "account_id",
            "currency",
            "local_day",
            unique=True,
            postgresql_where=text("withdrawn_at IS NULL"),
        ),
        Index("ix_reminder_letters_account_id", "account_id"),
        Index(None, "written_at"),
        Index("ix_reminder_letters_unsettled", "id", postgresql_where=text("settled_at IS NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    currency: Mapped[currency_code]
    kind: Mapped[LetterKind] = mapped_column(one_of(LetterKind, name="kind"))
    #: The account's own day, the only one on which it may leave.
    local_day: Mapped[date]
    #: The highest of its reminders when it was written.
    level: Mapped[ReminderLevel | None] = mapped_column(one_of(ReminderLevel, name="level"))
    #: The day by which it asks to be paid.
    pay_by: Mapped[date | None]
    written_at: Mapped[recorded]
    withdrawn_at: Mapped[timestamp | None]
    #: When all of its copies had left or were withdrawn, and its fees were charged.
    settled_at: Mapped[timestamp | None]


class Reminder(Base):
    """One invoice, reminded of at one step: once, ever, by a unique index (B14).

    One that was withdrawn before any copy left does not count.
    """

    __tablename__ = "reminders"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id letter_id invoice_id step level fee fee_entry_id withdrawn_at",
    )
    __table_args__ = (
        CheckConstraint("step > 0", name="step"),
        CheckConstraint("fee > 0", name="fee"),
        Index(
            "uq_reminders_invoice_step",
            "invoice_id",
            "step",
            unique=True,
            postgresql_where=text("withdrawn_at IS NULL"),
        ),
        Index("ix_reminders_account_id", "account_id"),
        # For the purge: the unique one passes over what was withdrawn.
        Index("ix_reminders_invoice_id", "invoice_id"),
        Index("ix_reminders_letter_id", "letter_id"),
        Index("ix_reminders_fee_entry_id", "fee_entry_id", postgresql_where=text("fee_entry_id IS NOT NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    letter_id: Mapped[UUID] = mapped_column(ForeignKey("reminder_letters.id"))
    invoice_id: Mapped[UUID] = mapped_column(ForeignKey("invoices.id"))
    #: Number and level of the step in the ladder that the account had then.
    step: Mapped[int] = mapped_column(SmallInteger)
    level: Mapped[ReminderLevel] = mapped_column(one_of(ReminderLevel, name="level"))
    #: Minor units of the letter's currency; charged when a copy was accepted.
    fee: Mapped[int | None] = mapped_column(BigInteger)
    fee_entry_id: Mapped[UUID | None] = mapped_column(ForeignKey("ledger_entries.id"))
    withdrawn_at: Mapped[timestamp | None]


class ReminderCopy(Base):
    """A letter to one contact: the e-mail that it went in."""

    __tablename__ = "reminder_copies"
    __data_map__ = Personal(Category.PLATFORM, exported="email_message_id account_id letter_id")
    __table_args__ = (Index(None, "letter_id"), Index(None, "account_id"))

    email_message_id: Mapped[UUID] = mapped_column(ForeignKey("email_messages.id"), primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    letter_id: Mapped[UUID] = mapped_column(ForeignKey("reminder_letters.id"))


class HoldKind(StrEnum):
    #: Somebody decided that the customer is not reminded for a while.
    PAUSE = "pause"
    #: The customer said when it would pay.
    PROMISE = "promise"


class HoldOutcome(StrEnum):
    LIFTED = "lifted"
    REPLACED = "replaced"
    KEPT = "kept"
    BROKEN = "broken"


class ReminderHold(Base):
    """What keeps reminders back: a pause of an invoice or of a whole account, or a promise to pay an invoice (B17).

    One of a kind is in force for an invoice, and one for an account. A dispute is not here but at the open item, since
    it says how much.
    """

    __tablename__ = "reminder_holds"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id invoice_id kind until amount created_at ended_at outcome letter_id",
    )
    __table_args__ = (
        CheckConstraint(
            "CASE kind WHEN 'pause' THEN amount IS NULL "
            "ELSE num_nulls(invoice_id, until, amount) = 0 AND amount > 0 END",
            name="promise",
        ),
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
        CheckConstraint("letter_id IS NULL OR (outcome = 'broken') IS TRUE", name="letter"),
        Index(
            "uq_reminder_holds_in_force",
            "account_id",
            "invoice_id",
            "kind",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_reminder_holds_account_id", "account_id"),
        Index("ix_reminder_holds_invoice_id", "invoice_id", postgresql_where=text("invoice_id IS NOT NULL")),
        Index("ix_reminder_holds_letter_id", "letter_id", postgresql_where=text("letter_id IS NOT NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: None where the whole account is paused.
    invoice_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"))
    kind: Mapped[HoldKind] = mapped_column(one_of(HoldKind, name="kind"))
    #: The last local day of a pause (None: until it is lifted); the day for which payment is promised.
    until: Mapped[date | None]
    #: What was open and promised; minor units of the invoice's currency.
    amount: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[recorded]
    ended_at: Mapped[timestamp | None]
    outcome: Mapped[HoldOutcome | None] = mapped_column(one_of(HoldOutcome, name="outcome"))
    #: The letter that says that the promise was broken.
    letter_id: Mapped[UUID | None] = mapped_column(ForeignKey("reminder_letters.id"))
