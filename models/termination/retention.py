"""What a law demands to keep after a purge, and until when (T8): one work row for each table and termination.

It is due when the first of its rows may go, and done when all of them have gone.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, uuid7
from models.data_map.map import Ignored
from models.work.row import Work


class Retention(Work, Base):
    """Rows of one table that outlive their account's contract."""

    __tablename__ = "retentions"
    __data_map__ = Ignored(
        "what a law makes the company keep after a purge, and until when; of the customer it holds the ref, as long as "
        "the kept rows are found by it, and nothing once these are gone"
    )
    __table_args__ = (
        UniqueConstraint("termination_id", "place", "store"),
        CheckConstraint("state <> 'done' OR account_ref IS NULL", name="account_ref"),
        CheckConstraint("least(rows, removed) >= 0", name="counts"),
        Index(None, "account_id"),
        *Work.indexes("retentions"),
    )

    id: Mapped[uuid7]
    termination_id: Mapped[UUID] = mapped_column(ForeignKey("terminations.id"))
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: By which the rows are found; None once they are gone.
    account_ref: Mapped[str | None] = mapped_column(Text)
    #: The database and the table, as the data map names them.
    place: Mapped[str] = mapped_column(Text)
    store: Mapped[str] = mapped_column(Text)
    legal_basis: Mapped[str] = mapped_column(Text)
    #: ISO 8601.
    duration: Mapped[str] = mapped_column(Text)
    #: How many rows were kept, and how many of these have gone since.
    rows: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    retained_at: Mapped[recorded]
