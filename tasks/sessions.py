"""Sessions: 24 hours, then gone (P9.3).

Readers never see an expired session, swept or not: the view `tenure.live_sessions` decides (S2). The sweep, ticked
every few minutes, removes what nobody can read; swept twice, it finds nothing. Revocation comes as a request.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from celery import shared_task
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session as UnitOfWork

from email_templates.catalogue.security import SecurityEvent, SecurityNotice
from models.account import Account
from models.session import LIFETIME, Session
from tasks.emails import queue_for_contacts
from tasks.failpoints import failpoint
from tasks.job import Tick
from tasks.ports import Ports, current

#: Rows deleted in one transaction: short enough that nobody waits for it.
BATCH = 10_000


def sweep(ports: Ports, *, lifetime: timedelta = LIFETIME, batch: int = BATCH) -> int:
    """Delete sessions older than `lifetime`, by the database's clock, in short transactions; returns how many."""
    swept = 0
    while not ports.stopping():
        with ports.database.connection() as connection:
            gone = connection.execute(
                text("""
                    DELETE FROM tenure.sessions WHERE id = ANY (ARRAY(
                        SELECT id FROM tenure.sessions WHERE created_at <= now() - :lifetime
                         ORDER BY created_at LIMIT :batch FOR UPDATE SKIP LOCKED))"""),
                {"lifetime": lifetime, "batch": batch},
            ).rowcount
            failpoint("sessions.sweep", "before_commit")
        failpoint("sessions.sweep", "after_commit")
        swept += gone
        if gone < batch:
            break
    return swept


def revoke(session: UnitOfWork, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """End all sessions of an account and tell its contacts, for a request `sessions.revoke`."""
    ended = session.execute(delete(Session).where(Session.account_id == account_id)).rowcount  # type: ignore[attr-defined]
    notice = SecurityNotice(
        event=SecurityEvent.SESSIONS_SIGNED_OUT,
        account_name=session.get_one(Account, account_id).name,
        happened_at=session.execute(select(func.now())).scalar_one(),
        sessions=ended,
    )
    queue_for_contacts(session, account_id, notice, f"request:{request_id}", ports)


@shared_task(name="sessions.sweep", base=Tick)
def sweep_sessions() -> dict[str, int]:
    return {"swept": sweep(current())}
