"""Details that are kept right: changes are confirmed, and people are asked whether they are true (P8.1, E14).

A change of a contact or an account is noted by a trigger in its own transaction, with a request to confirm it, which is
handled here. `details.plan_checks`, ticked by the hour, asks each contact once a year; a bounce asks another contact of
the account, and a payment that its provider refused for wrong or expired details asks whoever gets the bills. A contact
is asked once a year at most, whatever the reason: the dedupe key counts the contact's years, and the e-mail's unique
index does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from celery import shared_task
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from email_templates.catalogue.accounts import (
    Change,
    ChangeRecipient,
    CheckReason,
    Detail,
    DetailsChanged,
    DetailsCheck,
    Person,
)
from models.customers.account import Account
from models.customers.contact import Contact
from models.customers.detail_change import DetailChange
from models.work.request import JobRequest
from tasks.client.requests import DetailsConfirmChange
from tasks.engine.failpoints import failpoint
from tasks.engine.task import Tick
from tasks.failures import Permanent
from tasks.mail.events import when_suppressed
from tasks.mail.queue import Queued, queue
from tasks.ports.context import Ports, current
from tasks.requests.registry import handles

#: Contacts asked in one transaction.
BATCH = 500

#: Whom it is time to ask: a year after they became a contact, and a year after they were last asked.
DUE = text("""
    SELECT contact.id FROM tenure.contacts AS contact JOIN tenure.accounts AS account ON account.id = account_id
     WHERE coalesce(details_checked_at, contact.created_at) <= now() - interval '1 year'
       AND account.status = 'active' AND optional_mail
       AND NOT EXISTS (SELECT FROM tenure.suppressions WHERE address = lower(email) AND lifted_at IS NULL)
     ORDER BY coalesce(details_checked_at, contact.created_at) LIMIT :batch FOR UPDATE OF contact SKIP LOCKED""")

#: Who else of the account could say what became of an address: whoever gets the statements first.
OTHERS = text("""
    SELECT id FROM tenure.contacts AS contact
     WHERE account_id = :account AND lower(email) <> lower(:address) AND optional_mail
       AND (details_checked_at IS NULL OR details_checked_at <= now() - interval '1 year')
       AND NOT EXISTS (SELECT FROM tenure.suppressions WHERE address = lower(email) AND lifted_at IS NULL)
     ORDER BY receives_statements DESC, created_at, id LIMIT 1 FOR UPDATE""")

#: Who is asked after a payment that failed: whoever gets the statements first, if that one was not asked this year. No
#: other one instead: a card that is tried eight times would ask them all.
BILLED = text("""
    SELECT id FROM (
        SELECT id, details_checked_at FROM tenure.contacts AS contact
         WHERE account_id = :account AND optional_mail
           AND NOT EXISTS (SELECT FROM tenure.suppressions WHERE address = lower(email) AND lifted_at IS NULL)
         ORDER BY receives_statements DESC, created_at, id LIMIT 1 FOR UPDATE) AS billed
     WHERE details_checked_at IS NULL OR details_checked_at <= now() - interval '1 year'""")


@handles(DetailsConfirmChange)
def confirm_change(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None:
    """For a request `details.confirm_change`: tell those whom the change concerns, the old and the new address too."""
    asked = session.get_one(JobRequest, request_id)
    change = session.get(DetailChange, UUID(str(asked.args["change"])))
    if change is None or change.account_id != account_id:
        raise Permanent("There is no such change of details of this account.")
    account = session.get_one(Account, account_id)
    changes = tuple(
        Change(detail=Detail(each["detail"]), before=each["before"], after=each["after"]) for each in change.changes
    )
    moved = next((each for each in changes if each.detail is Detail.EMAIL), None)
    which = Contact.id == change.contact_id if change.contact_id else Contact.account_id == account_id
    messages: list[Queued] = []
    for contact in session.scalars(select(Contact).where(which)):
        told = {contact.email: ChangeRecipient.UNCHANGED_ADDRESS}
        if moved:
            told = {moved.before: ChangeRecipient.OLD_ADDRESS, moved.after: ChangeRecipient.NEW_ADDRESS}
        messages += [
            Queued(
                account_id=account_id,
                contact_id=contact.id,
                to_address=address,
                context=DetailsChanged(
                    recipient=recipient, account_name=account.name, changed_at=change.changed_at, changes=changes
                ),
                dedupe_key=f"details-changed:{change.id}:{contact.id}:{recipient}",
            )
            for address, recipient in told.items()
            if address
        ]
    queue(session, messages, ports)


def plan_checks(ports: Ports) -> int:
    """Ask all whose year is over; returns how many."""
    asked = 0
    while not ports.stopping():
        with ports.database.transaction() as session:
            due = session.scalars(DUE, {"batch": BATCH}).all()
            check(session, due, CheckReason.YEARLY, ports)
            failpoint("details.plan_checks", "before_commit")
        failpoint("details.plan_checks", "after_commit")
        asked += len(due)
        if len(due) < BATCH:
            break
    return asked


@when_suppressed
def ask_another(session: Session, account_id: UUID, unreachable: str, ports: Ports) -> bool:
    """Ask another contact of the account what became of an address; False where there is none to ask."""
    others = session.scalars(OTHERS, {"account": account_id, "address": unreachable}).all()
    check(session, others, CheckReason.BOUNCED, ports, unreachable=unreachable)
    return bool(others)


def ask_after_failed_payment(session: Session, account_id: UUID, ports: Ports) -> bool:
    """Ask whoever gets the account's bills whether its details are right; False where nobody is to be asked (E14)."""
    billed = session.scalars(BILLED, {"account": account_id}).all()
    check(session, billed, CheckReason.PAYMENT_FAILED, ports)
    return bool(billed)


def check(
    session: Session, contacts: Sequence[UUID], reason: CheckReason, ports: Ports, *, unreachable: str | None = None
) -> None:
    """Queue the question to these contacts, and note that they were asked."""
    if not contacts:
        return
    # How many years somebody has been a contact: once in each of them at most.
    years = func.floor(func.extract("epoch", func.now() - Contact.created_at) / 31_557_600)
    rows = session.execute(
        select(Contact, Account, years).join(Account, Account.id == Contact.account_id).where(Contact.id.in_(contacts))
    ).all()
    people: dict[UUID, list[Person]] = {}
    for each in session.scalars(
        select(Contact)
        .where(Contact.account_id.in_({account.id for _, account, _ in rows}))
        .order_by(Contact.created_at)
    ):
        people.setdefault(each.account_id, []).append(Person(name=each.name, email=each.email))
    queue(
        session,
        [
            Queued(
                account_id=account.id,
                contact_id=contact.id,
                to_address=contact.email,
                context=DetailsCheck(
                    reason=reason,
                    account_name=account.name,
                    account_ref=account.ref,
                    address=tuple(account.address),
                    people=tuple(people[account.id]),
                    tax_id=account.tax_id,
                    unreachable=unreachable,
                ),
                dedupe_key=f"details-check:{contact.id}:{int(year)}",
            )
            for contact, account, year in rows
        ],
        ports,
    )
    session.execute(update(Contact).where(Contact.id.in_(contacts)).values(details_checked_at=func.now()))


@shared_task(name="details.plan_checks", base=Tick)
def plan_details_checks() -> dict[str, int]:
    return {"asked": plan_checks(current())}
