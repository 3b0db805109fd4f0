"""A termination is asked for: a row, its first steps, and the confirmation, in one transaction (T3).

The request may come twice: the second one of an account is refused, by a unique index.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.catalogue.termination import TerminationConfirmed
from models.customers.account import Account
from models.termination.termination import Step, Termination
from models.work.request import JobRequest
from tasks.cases import correspondence
from tasks.cases.case import Next
from tasks.client.requests import TerminationsRequest
from tasks.export.retained import retained
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.requests.registry import handles
from tasks.termination.advancing import add_steps

_INSERT = text("""
    INSERT INTO tenure.terminations (account_id, requested_by, ends_at, cancel_until)
    SELECT id, :source, ends_at, greatest(ends_at, now()) + :grace
      FROM (SELECT id, coalesce(tenure.day_begins(CAST(:ends_on AS date) + 1, time_zone), now()) AS ends_at
              FROM tenure.accounts WHERE id = :account AND status = 'active') AS account
    ON CONFLICT (account_id) WHERE stage <> 'cancelled' DO NOTHING
    RETURNING id, requested_at, ends_at, cancel_until""")
_THERE = text("""
    SELECT termination.id, termination.stage, account.status
      FROM tenure.accounts AS account
      LEFT JOIN tenure.terminations AS termination
        ON termination.account_id = account.id AND termination.stage <> 'cancelled'
     WHERE account.id = :account""")


@dataclass(frozen=True, slots=True)
class Requested:
    """A termination that was just made."""

    id: UUID
    requested_at: datetime
    ends_at: datetime
    cancel_until: datetime


@handles(TerminationsRequest)
def handle(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `terminations.request`."""
    row = session.get_one(JobRequest, request_id)
    asked = msgspec.convert(row.args, TerminationsRequest, strict=False)
    grace = None if asked.grace_days is None else timedelta(days=asked.grace_days)
    request(session, account_id, ports, source=row.source, ends_on=asked.ends_on, grace=grace)


def request(
    session: Session,
    account_id: UUID,
    ports: Ports,
    *,
    source: str,
    ends_on: date | None = None,
    grace: timedelta | None = None,
) -> Requested:
    """End the account's contract with its day `ends_on`, or now; `grace` later it is frozen.

    Raises Permanent, with the reason, where a termination is under way already, or the account is not active.
    """
    grace = ports.terms.grace if grace is None else grace
    values = {"account": account_id, "source": source, "ends_on": ends_on, "grace": grace}
    made = session.execute(_INSERT, values).one_or_none()
    if made is None:
        raise _refusal(session, account_id)
    requested = Requested(*made)
    add_steps(session, requested.id, _first_steps(requested, ports))
    _confirm(session, account_id, requested, ports)
    return requested


def _refusal(session: Session, account_id: UUID) -> Permanent:
    there = session.execute(_THERE, {"account": account_id}).one_or_none()
    if there is None:
        return Permanent("There is no such account.")
    if there.id is None:
        return Permanent(f"The account is {there.status}, and no termination of it is under way.")
    return Permanent(f"The account's termination was asked for already: {there.id} is {there.stage}.")


def _first_steps(requested: Requested, ports: Ports) -> list[Next]:
    steps = [Next(Step.BEGIN, due=max(requested.ends_at, requested.requested_at))]
    if requested.ends_at > requested.requested_at + timedelta(days=1):
        steps.append(Next(Step.ANNOUNCE, due=max(requested.ends_at - ports.terms.notice, requested.requested_at)))
    return steps


def _confirm(session: Session, account_id: UUID, requested: Requested, ports: Ports) -> None:
    account = session.get_one(Account, account_id)
    context = TerminationConfirmed(
        account_name=account.name,
        account_ref=account.ref,
        requested_at=requested.requested_at,
        cancel_until=requested.cancel_until if requested.cancel_until > requested.requested_at else None,
        retained=retained(session, ports, (requested.cancel_until + ports.terms.window).date()),
    )
    # The termination's own mail, which goes out even where the account is frozen at once.
    whom = [correspondence.Correspondent(**each) for each in correspondence.kept(session, account_id)["contacts"]]
    termination = session.get_one(Termination, requested.id)
    correspondence.queue_mail(session, termination, [(each, context) for each in whom], "confirmed", ports)
