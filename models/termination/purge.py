"""How far the purge of an account came: one row for each store of the data map and each pass over it (P6.1, T19).

A row is the checkpoint of its store, written in the transaction that deletes, and later the evidence in the
certificate. It names the store as the data map does, and never whose data these were.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, timestamp, uuid7
from models.data_map.map import Shared


class StoreKind(StrEnum):
    """What kind of store it is; the order is that of a pass."""

    #: A party outside, such as the payment provider (T21).
    PROCESSOR = "processor"
    REDIS = "redis"
    #: Objects below one prefix: all versions, delete markers and unfinished uploads (T20).
    OBJECTS = "objects"
    #: The key that opened the account's objects (T27).
    KEY = "key"
    #: Messages about the termination itself that were sent.
    MAIL = "mail"
    TABLE = "table"


class Method(StrEnum):
    """What was done to what was found."""

    DELETED = "deleted"
    #: The rows stay, and say nothing about anybody.
    REDACTED = "redacted"
    #: The rows stay as long as a law demands it (T8).
    RETAINED = "retained"
    DESTROYED = "destroyed"


class PurgeStore(Base):
    """One store in one pass."""

    __tablename__ = "purge_stores"
    __data_map__ = Shared("how many rows, objects and keys a purge removed from where, and nothing about anybody")
    __table_args__ = (
        UniqueConstraint("termination_id", "pass_number", "kind", "place", "store"),
        CheckConstraint("least(expected, removed, kept, in_flight) >= 0", name="counts"),
        CheckConstraint("done_at IS NULL OR in_flight = 0", name="in_flight"),
    )

    id: Mapped[uuid7]
    termination_id: Mapped[UUID] = mapped_column(ForeignKey("terminations.id"))
    #: 1, then 2 after the quiet time (T23), and so on where a verification found something.
    pass_number: Mapped[int] = mapped_column(SmallInteger)
    #: Its turn in the pass.
    number: Mapped[int] = mapped_column(SmallInteger)
    kind: Mapped[StoreKind] = mapped_column(one_of(StoreKind, name="kind"))
    #: The database, bucket or server, as the data map names it.
    place: Mapped[str] = mapped_column(Text)
    #: The table; a prefix or a pattern as the data map writes it, with its `{account_id}`; a processor's name.
    store: Mapped[str] = mapped_column(Text)
    method: Mapped[Method] = mapped_column(one_of(Method, name="method"))
    #: Counted before the first one went: of a table, what the customer's record holds (T11).
    expected: Mapped[int | None] = mapped_column(BigInteger)
    removed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: What stays: under a retention, or locked by the object store.
    kept: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: Where the store is in another system: how many were about to be removed. Not 0 after a crash: then what is left
    #: tells what went.
    in_flight: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: What a person has to know of it, such as until when objects are locked.
    remark: Mapped[str | None] = mapped_column(Text)
    began_at: Mapped[timestamp | None]
    done_at: Mapped[timestamp | None]
