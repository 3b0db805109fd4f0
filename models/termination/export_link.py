"""A link to the record of a terminated account, as it was sent to one person (T18)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, timestamp, uuid7
from models.data_map.map import Ignored


class ExportLink(Base):
    """Whoever has the link's secret may fetch the record until its time is over. Of the secret only a hash is here.

    `received` says which bytes of the record have left under this link: a download that broke off and was taken up
    again was made in the end.
    """

    __tablename__ = "export_links"
    __data_map__ = Ignored(
        "hashes, and in which language to greet whoever comes; removed together with the record that they lead to"
    )
    __table_args__ = (
        CheckConstraint("length(secret_sha256) = 32", name="secret"),
        Index(None, "termination_id"),
    )

    id: Mapped[uuid7]
    termination_id: Mapped[UUID] = mapped_column(ForeignKey("terminations.id"))
    #: SHA-256 of the 32 random bytes in the link.
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    #: Of the person whom the link was sent to: a BCP 47 tag, and an IANA name.
    language: Mapped[str] = mapped_column(Text, server_default="en")
    time_zone: Mapped[str] = mapped_column(Text, server_default="UTC")
    created_at: Mapped[recorded]
    received: Mapped[Any] = mapped_column(INT8MULTIRANGE, server_default=text("'{}'"))
    #: When the last missing byte left.
    downloaded_at: Mapped[timestamp | None]
