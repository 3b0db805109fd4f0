"""Requests become effects: each kind's handler runs in the transaction that sets the request to done.

Ticked by the relay and the clock. A handler writes rows and nothing else, so doing it twice is impossible: the second
time there is no request to finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.work.request import JobRequest
from tasks.client.requests import KINDS
from tasks.engine.job import ClaimedRow, Job
from tasks.engine.task import tick
from tasks.ports.context import Ports
from tasks.requests.registry import handler_of

Effect = Callable[[Session, Ports], None]


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, tuple[str, UUID | None]]:
    rows = session.execute(select(JobRequest.id, JobRequest.kind, JobRequest.account_id).where(JobRequest.id.in_(ids)))
    return {row.id: (row.kind, row.account_id) for row in rows}


def understand(item: tuple[str, UUID | None], claimed: ClaimedRow) -> Effect:
    """Find the handler. The kind and the account come from the row, never from a message (W21)."""
    kind, account_id = item
    handler = handler_of(kind)
    return lambda session, ports: handler(session, account_id, claimed.id, ports)


def record(session: Session, results: Mapping[UUID, Effect], ports: Ports) -> None:
    for effect in results.values():
        effect(session, ports)


#: During a rolling deploy the next version's kinds are left to its workers, which claim them.
KNOWN = ", ".join(f"'{kind}'" for kind in sorted(KINDS))

HANDLE: Job[tuple[str, UUID | None], Effect] = Job(
    task="requests.handle",
    table=JobRequest,
    load=load,
    act=understand,
    record=record,
    done="handled",
    record_every=1,
    where=f"kind IN ({KNOWN})",
    yields_to=("emails.send_urgent",),
    wakes=(
        "statements.render",
        "invoices.render",
        "statements.render_long",
        "payments.read_events",
        "terminations.advance",
        "emails.send_urgent",
        "emails.send",
    ),
)


handle = tick(HANDLE)
