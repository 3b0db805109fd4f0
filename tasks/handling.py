"""Requests become effects: each kind's handler runs in the transaction that sets the request to done.

Ticked by the relay and the clock. A handler writes rows and nothing else, so doing it twice is impossible: the second
time there is no request to finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from celery import shared_task
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.job_request import JobRequest
from tasks import details, emails, invoices, mail_events, payment_events, reminder_holds, sessions, statements
from tasks.drain import Held, Job, drain
from tasks.failures import Permanent
from tasks.job import Tick
from tasks.ports import Ports, current
from tasks.requests import (
    DetailsConfirmChange,
    EmailsRecordEvent,
    EmailsSendAccountSetUp,
    EmailsUnsubscribe,
    InvoicesIssue,
    InvoicesSend,
    InvoicesVoid,
    PaymentsRecordEvent,
    RemindersDispute,
    RemindersPause,
    RemindersPromise,
    SessionsRevoke,
    StatementsSend,
    TerminationsCancel,
    TerminationsRequest,
)
from tasks.termination import cancelling, requesting

Handler = Callable[[Session, UUID, UUID, Ports], None]
MessageHandler = Callable[[Session, UUID, Ports], None]
Effect = Callable[[Session, Ports], None]

#: Kind, and what it does: `handler(session, account_id, request_id, ports)`.
HANDLERS: Mapping[str, Handler] = {
    StatementsSend.kind: statements.send_again,
    InvoicesIssue.kind: invoices.issue_now,
    InvoicesSend.kind: invoices.send_again,
    InvoicesVoid.kind: invoices.void,
    SessionsRevoke.kind: sessions.revoke,
    EmailsSendAccountSetUp.kind: emails.send_account_set_up,
    DetailsConfirmChange.kind: details.confirm_change,
    RemindersPause.kind: reminder_holds.pause,
    RemindersPromise.kind: reminder_holds.promise,
    RemindersDispute.kind: reminder_holds.dispute,
    TerminationsRequest.kind: requesting.handle,
}
#: The same for kinds that name a message or an event, not an account: `handler(session, request_id, ports)`.
MESSAGE_HANDLERS: Mapping[str, MessageHandler] = {
    EmailsRecordEvent.kind: mail_events.record_event,
    EmailsUnsubscribe.kind: mail_events.unsubscribe,
    PaymentsRecordEvent.kind: payment_events.receive,
    TerminationsCancel.kind: cancelling.handle,
}


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, tuple[str, UUID | None]]:
    rows = session.execute(select(JobRequest.id, JobRequest.kind, JobRequest.account_id).where(JobRequest.id.in_(ids)))
    return {row.id: (row.kind, row.account_id) for row in rows}


def understand(item: tuple[str, UUID | None], held: Held) -> Effect:
    """Find the handler. The kind and the account come from the row, never from a message (W21)."""
    kind, account_id = item
    if kind in MESSAGE_HANDLERS:
        return lambda session, ports: MESSAGE_HANDLERS[kind](session, held.id, ports)
    if kind not in HANDLERS or account_id is None:
        raise Permanent(f'This version has no handler for "{kind}": deploy one that has, then retry.')
    return lambda session, ports: HANDLERS[kind](session, account_id, held.id, ports)


def record(session: Session, results: Mapping[UUID, Effect], ports: Ports) -> None:
    for effect in results.values():
        effect(session, ports)


#: During a rolling deploy the next version's kinds are left to its workers, which claim them.
KNOWN = ", ".join(f"'{kind}'" for kind in sorted({*HANDLERS, *MESSAGE_HANDLERS}))

HANDLE: Job[tuple[str, UUID | None], Effect] = Job(
    task="requests.handle",
    table=JobRequest,
    load=load,
    act=understand,
    record=record,
    done="handled",
    record_every=1,
    where=f"kind IN ({KNOWN})",
    gives_way_to=("emails.send_urgent",),
    feeds=(
        "statements.render",
        "invoices.render",
        "statements.render_long",
        "payments.read_events",
        "terminations.advance",
        "emails.send_urgent",
        "emails.send",
    ),
)


@shared_task(name=HANDLE.task, base=Tick)
def handle() -> dict[str, int]:
    return drain(HANDLE, current())
