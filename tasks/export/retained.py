"""What a law makes us keep, as messages and the record tell it to the customer (T8)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.catalogue.termination import Retained
from email_templates.pages.archive_readme import Kept
from models.data_map.map import DataMap
from tasks.export.manifest import RetainedEntry, where
from tasks.ports.context import Ports

#: PostgreSQL reads ISO 8601's durations.
_UNTIL = text("SELECT (CAST(:purged_by AS date) + CAST(:duration AS interval))::date")


def retained(session: Session, ports: Ports, purged_by: date) -> tuple[Retained, ...]:
    """As messages tell it. Raises Permanent where the data map cannot be read: nothing is promised that is not known.

    `purged_by`: the last day on which the purge may begin, if no legal hold defers it.
    """
    entries = entries_of(session, ports.estate().map, purged_by)
    return tuple(Retained(what=str(each.table), law=each.legal_basis, until=each.until) for each in entries)


def entries_of(session: Session, mapped: DataMap, purged_by: date) -> tuple[RetainedEntry, ...]:
    """As the manifest of the record tells it: one entry for each table with a retention."""
    exceptions = ((table, table.retention) for table in mapped.tables)
    return tuple(
        RetainedEntry(
            database=table.database,
            table=str(table.name),
            legal_basis=retention.legal_basis,
            duration=retention.duration,
            counted_from=retention.counted_from,
            until=session.execute(_UNTIL, {"purged_by": purged_by, "duration": retention.duration}).scalar_one(),
            redacted=tuple(retention.redacted),
        )
        for table, retention in exceptions
        if retention is not None
    )


def for_a_person(entries: Sequence[RetainedEntry]) -> tuple[Kept, ...]:
    """As the README of the record tells it."""
    return tuple(
        Kept(where(each.database, each.table), each.legal_basis, each.until, each.redacted) for each in entries
    )
