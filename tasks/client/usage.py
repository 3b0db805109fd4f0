"""What a web tier in Python calls to record usage (P2.1a). It imports no Celery and none of the machinery.

    from tasks.client.usage import Usage, record

    buffer.append(Usage(account="acme", action="report.exported", ip=request.ip, browser="Firefox 140"))
    ...
    with Session(engine) as session, session.begin():      # every second, or every few hundred events
        refused = record(session.connection(), buffer)

An event is made with an id and its time, so a batch whose COMMIT was not answered is simply recorded again: what is
there already stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from tasks.storage.text import UNSTORABLE, as_json

#: Headers come from strangers: what is longer is cut.
LONGEST = 1_000
#: How far a web server's clock may be ahead.
AHEAD = timedelta(days=1)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One event. Raises ValueError where it can never be stored; texts are cut to 1,000 characters."""

    #: The application's own key of the account.
    account: str
    #: What was used: `invoice.viewed`, `report.exported`.
    action: str
    contact_id: UUID | None = None
    ip: str | None = None
    location: str | None = None
    browser: str | None = None
    operating_system: str | None = None
    referral_source: str | None = None
    #: Whatever else the application wants to know; JSON.
    details: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime = field(default_factory=_now)
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        if not self.account or not self.action:
            raise ValueError("a usage event names an account and an action, and one of them is empty")
        if self.occurred_at.tzinfo is None:
            raise ValueError("the time of a usage event has no zone: use datetime.now(UTC)")
        if not datetime(1990, 1, 1, tzinfo=UTC) <= self.occurred_at <= _now() + AHEAD:
            raise ValueError("a usage event is from before 1990 or from the future: look at the clock of the web tier")
        if self.ip is not None:
            try:
                ip_address(self.ip)
            except ValueError:
                raise ValueError("the ip of a usage event is no IPv4 or IPv6 address; leave it out") from None


def record(connection: Connection, events: Sequence[Usage]) -> list[Usage]:
    """Store a batch in the caller's transaction, in one statement; the events that are refused come back.

    Refused are those whose account is not known, or no longer active: of a customer who is leaving nothing new is kept.
    Raises ValueError where details are not JSON.
    """
    if not events:
        return []
    known = connection.execute(_RECORD, _columns(events)).scalar_one()
    active = set(known or ())
    return [event for event in events if event.account not in active]


def _columns(events: Sequence[Usage]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {
        name: [_storable(getattr(event, name)) for event in events]
        for name in ("account", "action", "location", "browser", "operating_system", "referral_source")
    }
    values |= {name: [getattr(event, name) for event in events] for name in ("id", "contact_id", "occurred_at")}
    values["ip"] = [None if event.ip is None else ip_address(event.ip).compressed for event in events]
    values["details"] = [as_json(event.details) for event in events]
    return values


def _storable(value: str | None) -> str | None:
    return None if value is None else UNSTORABLE.sub("\ufffd", value[:LONGEST])


_RECORD = text("""
    WITH event AS (
        SELECT * FROM unnest(
            CAST(:id AS uuid[]), CAST(:account AS text[]), CAST(:contact_id AS uuid[]),
            CAST(:occurred_at AS timestamptz[]), CAST(:action AS text[]), CAST(:ip AS inet[]),
            CAST(:location AS text[]), CAST(:browser AS text[]), CAST(:operating_system AS text[]),
            CAST(:referral_source AS text[]), CAST(:details AS jsonb[]))
            AS event (id, account, contact_id, occurred_at, action, ip, location, browser, operating_system,
                      referral_source, details)),
    active AS (
        SELECT id, ref FROM tenure.accounts WHERE status = 'active' AND ref IN (SELECT account FROM event)),
    stored AS (
        INSERT INTO tenure.usage_events (id, account_id, contact_id, occurred_at, action, ip, location, browser,
                                         operating_system, referral_source, details)
        SELECT event.id, active.id, contact_id, occurred_at, action, ip, location, browser, operating_system,
               referral_source, details
          FROM event JOIN active ON active.ref = event.account
        ON CONFLICT DO NOTHING)
    SELECT array_agg(ref) FROM active""")
