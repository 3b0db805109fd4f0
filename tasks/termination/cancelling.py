"""A termination is taken back: the account is active again, and goes on where it was stopped (T3).

One transaction with one winner: whoever changes the stage holds the termination's row, and the trigger lets nobody go
back from a purge. The record, where there is one, cannot be read any more from that transaction on, since its key is
destroyed; its object goes with the step RETIRE_ARCHIVE, which is due at once.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from models.customers.account import Account, AccountStatus
from models.customers.account_key import KeyPurpose
from models.data_map.map import AccountKeys
from models.termination.termination import Stage, Termination
from models.work.request import JobRequest
from tasks.client.requests import TerminationsCancel
from tasks.crypto import keyring
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.requests.registry import handles_without_account
from tasks.termination import stopping

#: Those that another transaction is just finishing are left to it: it waits for us, and finds what became of them.
_CANCEL_STEPS = """
    UPDATE tenure.termination_steps
       SET state = 'cancelled', finished_at = clock_timestamp(), lease_until = NULL,
           last_error = 'The termination was taken back.'
     WHERE id = ANY (ARRAY(
            SELECT id FROM tenure.termination_steps
             WHERE termination_id = :id AND state IN ('pending', 'running', 'failed') FOR UPDATE {}))"""
_STEPS, _NEW_STEPS = text(_CANCEL_STEPS.format("")), text(_CANCEL_STEPS.format("SKIP LOCKED"))
_MAILS = text("""
    UPDATE tenure.email_messages
       SET state = 'cancelled', finished_at = clock_timestamp(), lease_until = NULL,
           last_error = 'The termination was taken back.'
     WHERE termination_id = :id AND (state = 'pending' OR state = 'running' AND committing_at IS NULL)""")
_RETIRE = text("""
    INSERT INTO tenure.termination_steps (termination_id, step) VALUES (:id, 'retire_archive')
    ON CONFLICT (termination_id, step, number) DO UPDATE
       SET state = 'pending', attempts = 0, crashes = 0, due_at = now(), finished_at = NULL, last_error = NULL""")


@handles_without_account(TerminationsCancel)
def handle(session: Session, request_id: UUID, _ports: Ports) -> None:
    """For a request `terminations.cancel`."""
    cancel(session, UUID(session.get_one(JobRequest, request_id).args["termination"]))


def cancel(session: Session, termination_id: UUID) -> None:
    """Take it back. Raises Permanent, with the reason, where it cannot be any more; then nothing was changed."""
    # Steps before the termination, as everybody locks them.
    session.execute(_STEPS, {"id": termination_id})
    found = session.get(Termination, termination_id, with_for_update=True, populate_existing=True)
    if found is None:
        raise Permanent(f"There is no termination {termination_id}.")
    stage = found.stage_before or found.stage
    if stage in (Stage.PURGING, Stage.VERIFYING, Stage.CERTIFIED):
        raise Permanent(
            f"The termination is {stage} and cannot be taken back: its data are being deleted, or are gone."
        )
    if stage == Stage.CANCELLED:
        raise Permanent("The termination was taken back already.")
    session.execute(_NEW_STEPS, {"id": termination_id})
    session.execute(
        update(Termination)
        .where(Termination.id == termination_id)
        .values(stage=Stage.CANCELLED, stage_before=None, cancelled_at=func.clock_timestamp(), correspondence=None)
    )
    session.execute(_MAILS, {"id": termination_id})
    if found.frozen_at is not None:
        _thaw(session, found)


def _thaw(session: Session, termination: Termination) -> None:
    account = session.get_one(Account, termination.account_id)
    session.execute(text("SELECT set_config('tenure.purging', :account, true)"), {"account": str(account.id)})
    session.execute(update(Account).where(Account.id == account.id).values(status=AccountStatus.ACTIVE))
    stopping.go_on(session.connection(), AccountKeys(account.id, account.ref))
    keyring.destroy(session, account.id, KeyPurpose.EXPORT, termination.id)
    session.execute(_RETIRE, {"id": termination.id})
