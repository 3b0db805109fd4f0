"""What a session in another program's Redis held, kept since a legal hold names its account (S6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import CheckConstraint, Connection, ForeignKey, LargeBinary, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, uuid7
from models.data_map.map import Category, Personal


class HeldSessionKey(Base):
    """The last that a sweep saw of it. The key itself, by which one is signed in, is kept as its hash alone.

    Keys in Redis end by themselves, so the copy is made while the session lives (`workers/adapters/sessions/redis.py`).
    It goes as a `HeldSession` does.
    """

    __tablename__ = "held_session_keys"
    __data_map__ = Personal(
        Category.MACHINE,
        exported="id account_id store type value seen_at changed_at",
        left_out={"key_sha256": "the hash of a session's name: it only tells one session from another"},
    )
    __table_args__ = (
        UniqueConstraint("account_id", "store", "key_sha256"),
        CheckConstraint("length(key_sha256) = 32", name="key_sha256"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: As the settings call it.
    store: Mapped[str] = mapped_column(Text)
    key_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    #: As Redis calls it: `string`, `hash`.
    type: Mapped[str] = mapped_column(Text)
    #: Of a string what it holds; of another type what DUMP gives, which RESTORE takes back.
    value: Mapped[bytes] = mapped_column(LargeBinary)
    #: When it was first copied, and when it was last found to hold something else.
    seen_at: Mapped[recorded]
    changed_at: Mapped[recorded]


@dataclass(frozen=True, slots=True)
class Copy:
    """A key of an account as it is now."""

    account: UUID
    key_sha256: bytes
    type: str
    value: bytes


_KEEP = text("""
    INSERT INTO tenure.held_session_keys AS kept (account_id, store, key_sha256, type, value)
    VALUES (:account, :store, :key, :type, :value)
    ON CONFLICT (account_id, store, key_sha256) DO UPDATE
       SET type = excluded.type, value = excluded.value, changed_at = now()
     WHERE (kept.type, kept.value) IS DISTINCT FROM (excluded.type, excluded.value)""")


def keep(connection: Connection, store: str, copies: Sequence[Copy]) -> None:
    """Keep these; of a frozen account, too, since no fence stands before this table."""
    connection.execute(
        _KEEP,
        [
            {"account": copy.account, "store": store, "key": copy.key_sha256, "type": copy.type, "value": copy.value}
            for copy in copies
        ],
    )
