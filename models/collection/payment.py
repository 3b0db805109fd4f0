"""How a customer pays by itself, and each attempt to collect an invoice (B20 to B23)."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal
from models.work.row import Work


class MethodKind(StrEnum):
    CARD = "card"
    DIRECT_DEBIT = "direct_debit"


class PaymentMethod(Base):
    """What the customer lets us collect from: names that the payment provider gave it, and never the thing itself.

    The web tier adds a row when the customer has entered a card or signed a mandate on the provider's own page. One of
    an account is in use; its other ones are history. An account that has none in use is not collected from.
    """

    __tablename__ = "payment_methods"
    __data_map__ = Personal(
        Category.SETUP,
        exported="id account_id provider provider_customer provider_method kind digits created_at retired_at",
    )
    __table_args__ = (
        # The provider's name of a thing, whatever it looks like: no string of figures alone, as a card's number is.
        CheckConstraint("provider_method ~ '[A-Za-z]' AND provider_customer ~ '[A-Za-z]'", name="token"),
        Index(None, "created_at"),
        CheckConstraint("digits ~ '^[0-9]{0,4}$'", name="digits"),
        UniqueConstraint("provider", "provider_method"),
        Index(None, "account_id"),
        Index("uq_payment_methods_in_use", "account_id", unique=True, postgresql_where=text("retired_at IS NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    provider: Mapped[str] = mapped_column(Text, server_default="stripe")
    #: The provider's ids of customer (`cus_…`) and method (`pm_…`).
    provider_customer: Mapped[str] = mapped_column(Text)
    provider_method: Mapped[str] = mapped_column(Text)
    kind: Mapped[MethodKind] = mapped_column(one_of(MethodKind, name="kind"))
    #: The last figures, as the customer knows it from receipts; empty where there are none.
    digits: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[recorded]
    #: Since when it is no longer collected from: the customer took another one, or the provider refused it for good.
    retired_at: Mapped[timestamp | None]


class AttemptState(StrEnum):
    """`done` means that the provider has answered; `unknown`, that it has to be asked (B21)."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class AttemptOutcome(StrEnum):
    CHARGED = "charged"
    DECLINED = "declined"
    #: The provider works on it, for days where it is a direct debit; an event or the settling tells the end.
    PROCESSING = "processing"
    #: Nothing was open any more when the provider was to be asked for it.
    NOT_NEEDED = "not_needed"
    #: It never got to the provider, as that has said.
    NOT_MADE = "not_made"


class DeclineReason(StrEnum):
    """The class of a reason, which the customer can be told (B23). The provider's own code is beside it."""

    NOT_ENOUGH_MONEY = "not_enough_money"
    EXPIRED = "expired"
    WRONG_DETAILS = "wrong_details"
    CONFIRMATION_NEEDED = "confirmation_needed"
    REFUSED = "refused"
    TECHNICAL = "technical"


class CollectionAttempt(Work, Base):
    """One attempt to collect what is open of an invoice: a work row that is done when the provider has answered.

    `asked_at` and `amount` are committed before the provider hears of it, and never change afterwards, since the
    idempotency key (the row's id) stands for one request. A row that is found `running` without `asked_at` was
    certainly not asked for; with it, a crash or a lost answer leaves `unknown`, and the provider is asked what became
    of the key before anything else is done (B21).

    Of an invoice there is one attempt in flight, and one for each local day of the account, by unique indexes.
    """

    __tablename__ = "collection_attempts"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported=(
            "id account_id invoice_id method_id number local_day currency amount asked_at outcome provider_payment "
            "provider_charge decline_reason decline_code decline_is_final next_attempt_on"
        ),
    )
    states = AttemptState
    #: What a row becomes when its worker vanished.
    abandoned = "CASE WHEN asked_at IS NULL THEN 'pending' ELSE 'unknown' END"
    stoppable = "state IN ('pending', 'running', 'failed') AND asked_at IS NULL"
    #: What the provider may have charged, or works on: it is recorded before the account's ledger is closed.
    under_way = "asked_at IS NOT NULL AND (outcome = 'processing' OR outcome IS NULL AND state <> 'cancelled')"
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("(asked_at IS NULL) = (amount IS NULL)", name="asked_at"),
        CheckConstraint("number > 0", name="number"),
        CheckConstraint("(outcome = 'charged') IS NOT TRUE OR provider_charge IS NOT NULL", name="charge"),
        CheckConstraint("(outcome = 'declined') IS NOT TRUE OR decline_reason IS NOT NULL", name="decline"),
        CheckConstraint("next_attempt_on > local_day", name="next_attempt_on"),
        UniqueConstraint("invoice_id", "number"),
        UniqueConstraint("invoice_id", "local_day"),
        # One in flight, and that includes one which failed through a fault of ours: a person looks first.
        Index(
            "uq_collection_attempts_in_flight",
            "invoice_id",
            unique=True,
            postgresql_where=text("state IN ('pending', 'running', 'unknown', 'failed') OR outcome = 'processing'"),
        ),
        Index("ix_collection_attempts_account_id", "account_id"),
        Index("ix_collection_attempts_method_id", "method_id"),
        Index("ix_collection_attempts_processing", "asked_at", postgresql_where=text("outcome = 'processing'")),
        # Two jobs share the table; neither passes over what is due of the other.
        Index(
            "ix_collection_attempts_unasked_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'pending' AND crashes = 0 AND asked_at IS NULL"),
        ),
        Index(
            "ix_collection_attempts_asked_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'pending' AND crashes = 0 AND asked_at IS NOT NULL"),
        ),
        *Work.indexes("collection_attempts"),
    )

    #: Derived from invoice and number (`tenure.derived_id`), so that an attempt which a failover lost has the same key.
    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    invoice_id: Mapped[UUID] = mapped_column(ForeignKey("invoices.id"))
    method_id: Mapped[UUID] = mapped_column(ForeignKey("payment_methods.id"))
    #: The how manieth of its invoice, from 1.
    number: Mapped[int] = mapped_column(SmallInteger)
    #: The account's own day on which the provider was asked; until then, on which it was planned.
    local_day: Mapped[date]
    currency: Mapped[currency_code]
    #: Minor units; what was open when `asked_at` was committed.
    amount: Mapped[int | None] = mapped_column(BigInteger)
    asked_at: Mapped[timestamp | None]
    outcome: Mapped[AttemptOutcome | None] = mapped_column(one_of(AttemptOutcome, name="outcome"))
    #: The provider's ids of the payment (`pi_…`) and the charge (`ch_…`).
    provider_payment: Mapped[str | None] = mapped_column(Text, unique=True)
    provider_charge: Mapped[str | None] = mapped_column(Text, unique=True)
    decline_reason: Mapped[DeclineReason | None] = mapped_column(one_of(DeclineReason, name="decline_reason"))
    #: As the provider writes it, such as `insufficient_funds`.
    decline_code: Mapped[str | None] = mapped_column(Text)
    #: Whether it was a hard decline, after which nothing is tried again.
    decline_is_final: Mapped[bool | None]
    #: The local day from which another attempt is made, if something is open then; None where none is.
    next_attempt_on: Mapped[date | None]
