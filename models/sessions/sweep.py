"""What the sweeps of each session store came to (S7): for figures that need not ask the store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Connection, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, timestamp
from models.data_map.map import Shared

#: Tenure's own store; others have the names of the settings.
OWN = "tenure"


class SessionSweep(Base):
    """One row a store, kept up by its sweeps."""

    __tablename__ = "session_sweeps"
    __data_map__ = Shared("how many, and nothing of whose")

    store: Mapped[str] = mapped_column(Text, primary_key=True)
    #: How many sessions went, ever.
    swept: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: When a sweep last got to the end of the store; None before the first.
    swept_at: Mapped[timestamp | None]
    #: When the oldest session that was left had begun, as far as the store tells; None where none was left.
    oldest_at: Mapped[timestamp | None]
    #: How many sessions will last for more than a day unless somebody acts.
    outlasting: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: Why the last sweep could not be done, without personal data; None where it could.
    trouble: Mapped[str | None] = mapped_column(Text)


def note(
    connection: Connection, store: str, *, gone: int, finished: bool, oldest_at: datetime | None, outlasting: int = 0
) -> None:
    """Add the result of a sweep, which may have been broken off before its end."""
    connection.execute(
        text("""
            INSERT INTO tenure.session_sweeps AS known (store, swept, swept_at, oldest_at, outlasting)
            VALUES (:store, :gone, CASE WHEN :finished THEN now() END, :oldest_at, :outlasting)
            ON CONFLICT (store) DO UPDATE SET swept = known.swept + excluded.swept,
                   swept_at = coalesce(excluded.swept_at, known.swept_at), oldest_at = excluded.oldest_at,
                   outlasting = excluded.outlasting, trouble = NULL"""),
        {"store": store, "gone": gone, "finished": finished, "oldest_at": oldest_at, "outlasting": outlasting},
    )


def note_trouble(connection: Connection, store: str, trouble: str) -> None:
    """Say why a store could not be swept; what is known of it stays."""
    connection.execute(
        text("""
            INSERT INTO tenure.session_sweeps AS known (store, trouble) VALUES (:store, :trouble)
            ON CONFLICT (store) DO UPDATE SET trouble = excluded.trouble"""),
        {"store": store, "trouble": trouble},
    )
