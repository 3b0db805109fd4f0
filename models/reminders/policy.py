"""When customers are reminded of what is due, as data (B11): ladders of steps, one of them the default."""

from __future__ import annotations

from datetime import time
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, uuid7
from models.data_map.map import Shared


class ReminderLevel(StrEnum):
    """The tone of a step; a ladder may have several steps of one level, and never goes back to an earlier one."""

    #: On the due date or before it.
    UPCOMING = "upcoming"
    FIRST = "first"
    SECOND = "second"
    #: Only after an earlier level than this was accepted (B14).
    FINAL = "final"


class ReminderPolicy(Base):
    """A ladder, and when in the customer's day and week it may be climbed.

    An account without a policy of its own has the default one; where there is none, nobody is reminded. Write one with
    `SELECT tenure.set_reminder_policy(…)`, which says in a sentence what is wrong with it.
    """

    __tablename__ = "reminder_policies"
    __data_map__ = Shared("how the company reminds its customers")
    __table_args__ = (
        CheckConstraint("grace_days BETWEEN 0 AND 60", name="grace_days"),
        CheckConstraint("minimum_gap_days BETWEEN 1 AND 90", name="minimum_gap_days"),
        # Shorter, a single lost tick could cost a day.
        CheckConstraint("closes_at - opens_at >= interval '1 hour'", name="hours"),
        Index("uq_reminder_policies_default", "is_default", unique=True, postgresql_where=text("is_default")),
    )

    id: Mapped[uuid7]
    name: Mapped[str] = mapped_column(Text, unique=True)
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Days after the due date until an invoice counts as overdue (B15).
    grace_days: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    #: From one letter to the next of the same customer and currency, at the least.
    minimum_gap_days: Mapped[int] = mapped_column(SmallInteger, server_default=text("3"))
    #: Letters leave between these times of the customer's day, on its business days.
    opens_at: Mapped[time] = mapped_column(server_default=text("'09:00'"))
    closes_at: Mapped[time] = mapped_column(server_default=text("'17:00'"))
    created_at: Mapped[recorded]


class ReminderStep(Base):
    """One step of a ladder. Triggers keep a ladder in order (`models/schema/sql/170_reminders.sql`)."""

    __tablename__ = "reminder_steps"
    __data_map__ = Shared("how the company reminds its customers")
    __table_args__ = (
        CheckConstraint("number > 0", name="number"),
        CheckConstraint("days BETWEEN -60 AND 365", name="days"),
        CheckConstraint("(level = 'upcoming') = (days <= 0)", name="upcoming"),
        CheckConstraint("(fee IS NULL) = (fee_currency IS NULL) AND fee > 0", name="fee"),
        CheckConstraint("pay_within BETWEEN 1 AND 60", name="pay_within"),
        CheckConstraint("level <> 'final' OR pay_within IS NOT NULL", name="final"),
    )

    policy_id: Mapped[UUID] = mapped_column(ForeignKey("reminder_policies.id"), primary_key=True)
    #: From 1.
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    #: 0 or less: so many days before the due date. More: the how manieth day on which the invoice is overdue.
    days: Mapped[int] = mapped_column(SmallInteger)
    level: Mapped[ReminderLevel] = mapped_column(one_of(ReminderLevel, name="level"))
    #: What the customer agreed to pay for this step: minor units, charged for invoices in that currency alone.
    fee: Mapped[int | None] = mapped_column(BigInteger)
    fee_currency: Mapped[str | None] = mapped_column(String(3))
    #: The letter asks for payment within so many days.
    pay_within: Mapped[int | None] = mapped_column(SmallInteger)
