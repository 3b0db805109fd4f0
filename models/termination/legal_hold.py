"""A legal hold: what is stored about an account stays until the hold is released (S6, T22).

A transaction that deletes an account's data asks first, whatever it deletes and whoever starts it:

    SELECT tenure.free_to_delete(:account)     -- a statement of its own, in the transaction that then deletes

True: nothing holds the account, and a hold that is placed from now on waits until this transaction has ended. False:
delete nothing, come again later. The answer counts for that transaction alone, so every batch of a purge asks anew.
It is asked in READ COMMITTED, and refused elsewhere: a snapshot that was taken before the lock would not show the hold
that was waited for. `tenure.is_held(account)` says the same without a lock, for whoever only looks.

A sweep that goes through the rows of all accounts asks once a transaction, in a statement of its own:

    SELECT tenure.await_holds()                -- holds wait from now on
    DELETE ... WHERE account_id NOT IN (SELECT account_id FROM tenure.legal_holds WHERE released_at IS NULL)

`models/schema/sql/060_legal_holds.sql` has the functions, and `tenure.place_hold` and `tenure.release_hold`.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, timestamp, uuid7
from models.data_map.map import Ignored


class LegalHold(Base):
    """One demand to keep an account's data, in force until it is released. A row is proof: it stays, as it was written.

    For an account that is frozen, too, and while it is being purged: what is not deleted by then stays.
    """

    __tablename__ = "legal_holds"
    __data_map__ = Ignored(
        "why and at whose word an account's data had to be kept: the company's own record, which names no customer, is "
        "not for the customer to see while the case is open, and stays as proof of why a purge waited"
    )
    __table_args__ = (
        CheckConstraint("length(reference) BETWEEN 1 AND 200", name="reference"),
        CheckConstraint("length(reason) BETWEEN 1 AND 2000", name="reason"),
        CheckConstraint("length(placed_by) BETWEEN 1 AND 200", name="placed_by"),
        CheckConstraint("length(released_by) BETWEEN 1 AND 200", name="released_by"),
        CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name="released"),
        Index(None, "account_id"),
        # The same case twice is the same hold.
        Index(
            "ix_legal_holds_in_force",
            "account_id",
            "reference",
            unique=True,
            postgresql_where=text("released_at IS NULL"),
        ),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: The case, as a court or an authority calls it.
    reference: Mapped[str] = mapped_column(Text)
    #: In words, and without the name of anybody.
    reason: Mapped[str] = mapped_column(Text)
    #: Who of the company did it, by a login name or the like.
    placed_by: Mapped[str] = mapped_column(Text)
    placed_at: Mapped[recorded]
    released_by: Mapped[str | None] = mapped_column(Text)
    #: None while it is in force.
    released_at: Mapped[timestamp | None]
