"""Known vulnerabilities of what is installed: when it was looked, what was found, since when it is open (W24)."""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import CheckConstraint, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, timestamp, uuid7
from models.data_map.map import Shared

#: Within so long a finding is patched, or accepted with a reason (P5.1b).
DEADLINE = timedelta(days=30)
#: An installation that was not audited for so long does not know how it stands.
SILENCE = timedelta(days=3)


class SecurityAudit(Base):
    """One look at all installed packages. Without an end, its process died; with an error, it saw nothing."""

    __tablename__ = "security_audits"
    __data_map__ = Shared("Audits of the installed packages.")
    __table_args__ = (
        Index(None, "begun_at"),
        CheckConstraint("(packages IS NULL) = (ended_at IS NULL OR error IS NOT NULL)", name="outcome"),
    )

    id: Mapped[uuid7]
    begun_at: Mapped[recorded]
    ended_at: Mapped[timestamp | None]
    #: How many packages were looked up.
    packages: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)


class SecurityFinding(Base):
    """A known vulnerability of an installed version. Open until an audit no longer finds it."""

    __tablename__ = "security_findings"
    __data_map__ = Shared("What is publicly known against the installed packages.")
    __table_args__ = (
        CheckConstraint("(accepted_until IS NULL) = (accepted_why IS NULL)", name="accepted"),
        CheckConstraint("accepted_why <> ''", name="accepted_why"),
        Index("ix_security_findings_open", "first_seen", postgresql_where=text("gone_at IS NULL")),
    )

    package: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[str] = mapped_column(Text, primary_key=True)
    #: The advisory's id, such as a CVE number.
    advisory: Mapped[str] = mapped_column(Text, primary_key=True)
    aliases: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    #: Versions without it; empty where there is none yet.
    fixed_in: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    first_seen: Mapped[recorded]
    last_seen: Mapped[recorded]
    gone_at: Mapped[timestamp | None]
    #: A person has decided that it does no harm here, and until when that holds.
    accepted_until: Mapped[date | None]
    accepted_why: Mapped[str | None] = mapped_column(Text)
