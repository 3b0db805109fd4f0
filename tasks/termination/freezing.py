"""FREEZE: from here on nothing is written for the account, and nothing more is done for it (T9, T10).

One transaction, begun as often as needed: the account is frozen, its sessions end, its work is taken out of the work,
and whom to write to is copied from its contacts. It waits for whoever is writing for the account, and while nobody can
tell what work of the account comes to: a payment that the provider may have made, a message that is just leaving.
When it is committed, the account's sessions in other programs' stores end.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import is_conflict
from models.customers.account import Account, AccountStatus
from models.data_map.map import AccountKeys
from models.termination.termination import Stage, Step, Termination
from tasks.cases import correspondence
from tasks.cases.case import Case, Next, NotYet, StepResult, enter
from tasks.engine.failpoints import failpoint
from tasks.engine.job import ClaimedRow
from tasks.engine.locks import bound_locks
from tasks.termination import stopping

#: How long the freeze waits for a writer.
FREEZE_LOCK_TIMEOUT = timedelta(seconds=5)
#: How long until it is tried again: a writer is soon done, a payment may take days.
BUSY = timedelta(seconds=10)
UNDER_WAY = timedelta(seconds=30)


def freeze(case: Case, claimed: ClaimedRow) -> StepResult:
    try:
        _wait_for_work(case, claimed)
        enter(
            case,
            claimed,
            Stage.FROZEN,
            effects=lambda session: _freeze(session, case),
            frozen_at=func.clock_timestamp(),
        )
    except DBAPIError as error:
        if is_conflict(error):
            raise NotYet("Another transaction writes for the account: it is frozen when that one ends.", BUSY) from None
        raise
    failpoint("terminations.freeze", "after_commit")
    _end_sessions_elsewhere(case, claimed)
    return StepResult(steps=(Next(Step.EXPORT),))


def _end_sessions_elsewhere(case: Case, claimed: ClaimedRow) -> None:
    """Those in other programs' stores, before the export: what it finds of them is left to the purge (T11).

    Raises Unavailable where a store is away. The sweep, which the freeze wakes, may be at it, too.
    """
    for store in claimed.ports.session_stores:
        if store.end(case.account):
            raise NotYet(f"Sessions of the account in the store {store.name!r} are in use.", BUSY)


def _wait_for_work(case: Case, claimed: ClaimedRow) -> None:
    """Before anybody is made to wait for us."""
    with claimed.ports.database.transaction() as session:
        _nothing_under_way(session, case.account)


def _freeze(session: Session, case: Case) -> None:
    connection, account = session.connection(), case.account
    bound_locks(session, FREEZE_LOCK_TIMEOUT)
    # Rows of work before the account's, as whoever does the work takes them; what was added meanwhile, after it.
    stopping.stop(connection, account)
    session.get_one(Account, account.id, with_for_update=True, populate_existing=True)
    stopping.stop(connection, account)
    _nothing_under_way(session, account)
    session.execute(update(Account).where(Account.id == account.id).values(status=AccountStatus.FROZEN))
    session.execute(
        update(Termination)
        .where(Termination.id == case.id)
        .values(correspondence=correspondence.kept(session, account.id))
    )


def _nothing_under_way(session: Session, account: AccountKeys) -> None:
    table = stopping.under_way(session.connection(), account)
    if table is not None:
        raise NotYet(f"Rows of {table} are under way, and nobody can tell yet what they come to.", UNDER_WAY)
