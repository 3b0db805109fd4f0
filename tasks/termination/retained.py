"""What a law makes us keep, as messages tell it to the customer (T8)."""

from __future__ import annotations

from datetime import date

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.catalogue.termination import Retained
from tasks.ports import Ports

#: PostgreSQL reads ISO 8601's durations.
_UNTIL = text("SELECT (CAST(:purged_on AS date) + CAST(:duration AS interval))::date")


def retained(session: Session, ports: Ports, purged_on: date) -> tuple[Retained, ...]:
    """One entry for each table with a retention, with the last day on which something of it may still be there.

    Raises Permanent where the data map cannot be read: nothing is promised that is not known.
    """
    exceptions = ((table.name, table.retention) for table in ports.estate().map.tables)
    return tuple(
        Retained(
            what=str(name),
            law=retention.legal_basis,
            until=session.execute(_UNTIL, {"purged_on": purged_on, "duration": retention.duration}).scalar_one(),
        )
        for name, retention in exceptions
        if retention is not None
    )
