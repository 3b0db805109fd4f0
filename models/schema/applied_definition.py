"""Which functions, triggers and views of which text are in the database: what `tenure migrate` may leave alone."""

from __future__ import annotations

from sqlalchemy import LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base
from models.data_map.map import Shared


class AppliedDefinition(Base):
    """A function, trigger or view that `tenure migrate` made."""

    __tablename__ = "applied_definitions"
    __data_map__ = Shared("The functions, triggers and views of the schema.")

    #: Its kind, its name and, of a trigger, its table: `trigger fence_insert on tenure.invoices`.
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    #: SHA-256 of the statement that made it.
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
