"""A letterhead as it was: documents keep saying who sent them, whatever the company is called next year (B3)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded
from models.data_map.map import Shared


class Letterhead(Base):
    """One version of the company's name, address and bank, named by what it says; written once, never changed."""

    __tablename__ = "letterheads"
    __data_map__ = Shared("the company's own name and address")
    __table_args__ = (CheckConstraint("length(sha256) = 32", name="sha256"),)

    #: Of the content as JSON with sorted keys.
    sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[recorded]
