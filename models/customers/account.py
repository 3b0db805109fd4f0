"""An account: one customer of the company, as long as its contract lasts."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, FetchedValue, ForeignKey, Index, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal, Redact


class AccountStatus(StrEnum):
    ACTIVE = "active"
    FROZEN = "frozen"
    PURGED = "purged"


class StatementForm(StrEnum):
    """How a statement shows the balance; both say the same figures (B2)."""

    #: Opening balance, every movement with the balance after it, closing balance.
    BALANCE_FORWARD = "balance_forward"
    #: The same, and each charge that is still open with its due date.
    OPEN_ITEM = "open_item"


class Account(Base):
    """The customer, and the schedule of its statements.

    `period_start` is the first local day of the period that is open now; `statement_due_at`, kept by a trigger from
    `period_start`, `billing_day` and `time_zone`, is the instant at which that period closes (B4). Planning moves
    `period_start` on in the transaction that inserts the statement, so a planner that comes late or twice finds
    nothing to do.
    """

    __tablename__ = "accounts"
    __data_map__ = Personal(
        Category.SETUP,
        exported=(
            "id ref name address country currency status time_zone billing_day period_start statement_due_at "
            "statement_form tax_id payment_terms invoice_series invoiced_from invoice_period_start invoice_due_at "
            "reminder_policy_id created_at"
        ),
        left_out={
            "stated_until": "where the planning of statements stands; the statements themselves are exported",
            "stated_cutoff": "where the planning of statements stands; the statements themselves are exported",
        },
        paths=("id = account.id",),
        # The row stays as a tombstone, so that a late write for this customer finds a purged account and is refused.
        # Whoever has the ref can find it; from the row nobody learns who the customer was.
        purge=Redact(
            {
                "ref": "tenure.purged_ref(ref)",
                "name": "''",
                "address": "'{}'",
                "country": "NULL",
                "tax_id": "NULL",
                "time_zone": "'UTC'",
                "status": "'purged'",
            }
        ),
    )
    __table_args__ = (
        CheckConstraint("billing_day BETWEEN 1 AND 31", name="billing_day"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("payment_terms BETWEEN 0 AND 365", name="payment_terms"),
        CheckConstraint("(invoiced_from IS NULL) = (invoice_period_start IS NULL)", name="invoiced_from"),
        Index("ix_accounts_statement_due", "statement_due_at", postgresql_where=text("status = 'active'")),
        Index(
            "ix_accounts_reminder_policy_id",
            "reminder_policy_id",
            postgresql_where=text("reminder_policy_id IS NOT NULL"),
        ),
        Index("ix_accounts_invoice_due", "invoice_due_at", postgresql_where=text("status = 'active'")),
    )

    id: Mapped[uuid7]
    #: The application's own key of the customer.
    ref: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    address: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    #: ISO 3166-1 alpha-2, where known.
    country: Mapped[str | None] = mapped_column(Text)
    #: What the contract is billed in; the ledger may hold others too.
    currency: Mapped[currency_code]
    status: Mapped[AccountStatus] = mapped_column(
        one_of(AccountStatus, name="status"), server_default=AccountStatus.ACTIVE
    )
    #: An IANA name: the day of this account begins and ends there.
    time_zone: Mapped[str] = mapped_column(Text, server_default="UTC")
    #: The day of the month on which a period begins; 29 to 31 mean the last day of shorter months.
    billing_day: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    statement_form: Mapped[StatementForm] = mapped_column(
        one_of(StatementForm, name="statement_form"), server_default=StatementForm.BALANCE_FORWARD
    )
    period_start: Mapped[date] = mapped_column(server_default=text("current_date"))
    #: None while the account is not active: no period of it closes.
    statement_due_at: Mapped[timestamp | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue()
    )
    #: What the last plan saw, whether a statement came of it or not: the ledger's entries that occurred before this
    #: instant and have at most this number. None before the first plan, which takes all that is older for history.
    stated_until: Mapped[timestamp | None]
    stated_cutoff: Mapped[int | None] = mapped_column(BigInteger)
    #: A tax number such as a VAT id, as it is to stand on invoices.
    tax_id: Mapped[str | None] = mapped_column(Text)
    #: Days from an invoice's issue to its due date; None where none was agreed, and then nobody is reminded (B18).
    payment_terms: Mapped[int | None] = mapped_column(SmallInteger, server_default=text("14"))
    invoice_series: Mapped[str] = mapped_column(Text, server_default="main")
    #: The first local day whose charges Tenure invoices (B8); None where others do it. Earlier charges stand on no
    #: invoice of ours, and payments that came before it was set settle none.
    invoiced_from: Mapped[date | None]
    #: The first local day of the period that the next invoice is about, and the instant at which it closes: kept, like
    #: those of statements, by a trigger and by whoever issues.
    invoice_period_start: Mapped[date | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue()
    )
    invoice_due_at: Mapped[timestamp | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue()
    )
    #: How it is reminded; None: as the default policy says (B11).
    reminder_policy_id: Mapped[UUID | None] = mapped_column(ForeignKey("reminder_policies.id"))
    created_at: Mapped[recorded]
