"""ANNOUNCE and BEGIN: before the contract's end, and at it (T3).

The first reminds a customer whose contract still runs for a while that it ends. With the second, which is due when the
contract ends, the time of grace begins: nothing happens to the account yet. What follows is the freeze.
"""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from email_templates.catalogue.termination import ContractEnding
from models.customers.account import Account
from models.mail.email_message import EmailMessage
from models.termination.termination import Stage, Step, Termination
from tasks.cases.case import Case, Next, StepResult
from tasks.cases.correspondence import REASON
from tasks.engine.job import ClaimedRow
from tasks.export.retained import retained
from tasks.mail.final_check import Withdrawn, final_check
from tasks.mail.queue import queue_for_contacts


def announce(case: Case, claimed: ClaimedRow) -> StepResult:
    if case.stage != Stage.REQUESTED:
        # Every worker was away until the contract was over: then it is not news any more.
        return StepResult(evidence={"too_late": True})

    def tell(session: Session) -> None:
        account, termination = session.get_one(Account, case.account.id), case.termination
        zone = ZoneInfo(account.time_zone)
        deleted_from = termination.cancel_until.astimezone(zone).date()
        context = ContractEnding(
            account_name=account.name,
            account_ref=account.ref,
            # The contract ends with the beginning of the next day.
            ends_on=(termination.ends_at.astimezone(zone) - timedelta(seconds=1)).date(),
            deleted_from=deleted_from,
            retained=retained(session, claimed.ports, deleted_from + claimed.ports.terms.window),
        )
        queue_for_contacts(session, account.id, context, REASON.format(case.id, "announced"), claimed.ports)

    return StepResult(record=tell)


@final_check(ContractEnding)
def still_ending(session: Session, row: EmailMessage) -> None:
    """Whoever took the termination back is not told that the contract ends."""
    found = session.get(Termination, row.dedupe_key.split(":")[1])
    if found is None or found.stage == Stage.CANCELLED:
        raise Withdrawn("The termination was taken back before the message left.")


def begin(case: Case, _claimed: ClaimedRow) -> StepResult:
    return StepResult(stage=Stage.GRACE, steps=(Next(Step.FREEZE, due=case.termination.cancel_until),))
