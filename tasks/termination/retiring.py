"""FORGET and RETIRE_ARCHIVE: what had to outlast the purge goes when its time is over (T18, T25).

FORGET deletes the mails about the termination, and whom they went to, when the last one was accepted or a week after
the certificate. RETIRE_ARCHIVE erases the customer's record when its window is over: first of all the key, without
which a copy that somebody kept says nothing, then every version of its objects, and the links to it. Neither comes
before the purge was certified; of a termination that was taken back the record goes at once.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice

from sqlalchemy import delete, func, text
from sqlalchemy.orm import Session

from models.customers.account_key import KeyPurpose
from models.mail.email_message import EmailMessage
from models.termination.export_link import ExportLink
from models.termination.termination import Stage
from tasks.cases.case import Case, NotYet, StepResult
from tasks.cases.correspondence import accepted_at
from tasks.certificates import certifying
from tasks.crypto import keyring
from tasks.engine.failpoints import failpoint
from tasks.engine.job import ClaimedRow
from tasks.ports.objects import ObjectStore
from tasks.termination.exporting import archive_of

#: How long the addresses for the last message are kept where nobody accepts it.
REMEMBERED = timedelta(days=7)
LOOK = timedelta(hours=1)
#: Versions in one request to the object store.
_BATCH = 1_000

_LAST_MAILS = text("""
    SELECT count(*) AS queued,
           count(*) FILTER (WHERE state IN ('pending', 'running') OR state = 'unknown' AND sent_again_at IS NULL)
             AS under_way
      FROM tenure.email_messages WHERE termination_id = :termination AND message = 'purge-completed'""")


def forget(case: Case, claimed: ClaimedRow) -> StepResult:
    certified_at = case.termination.certified_at
    if certified_at is None:
        raise NotYet("The purge is not certified yet: whom to tell of it is still needed.", LOOK)
    with claimed.ports.database.transaction() as session:
        accepted = accepted_at(session, case.id, "purged")
        mails = session.execute(_LAST_MAILS, {"termination": case.id}).one()
    settled = mails.queued == 0 or (accepted is not None and mails.under_way == 0)
    if not settled and case.now < certified_at + REMEMBERED:
        raise NotYet("The last message was not accepted yet: its addresses are kept for a week at the most.", LOOK)

    def record(session: Session) -> None:
        session.execute(delete(EmailMessage).where(EmailMessage.termination_id == case.id))

    return StepResult(changes={"correspondence": None}, evidence={"accepted": accepted is not None}, record=record)


def retire_archive(case: Case, claimed: ClaimedRow) -> StepResult:
    termination, ports = case.termination, claimed.ports
    cancelled = case.stage == Stage.CANCELLED
    if not cancelled:
        if case.stage != Stage.CERTIFIED:
            raise NotYet("The record is kept until the purge is certified.", LOOK)
        until = termination.available_until
        if until is not None and case.now < until:
            raise NotYet(f"The record can be fetched until {until:%Y-%m-%d %H:%M} UTC.", until - case.now)
    with ports.database.transaction() as session:
        # First: from here on nobody reads it, however long the object store keeps a copy.
        keyring.destroy(session, case.account.id, KeyPurpose.EXPORT, case.id)
    failpoint("terminations.retire_archive", "after_key")
    versions = _erase(ports.objects, archive_of(case).folder)
    failpoint("terminations.retire_archive", "after_erase")

    def record(session: Session) -> None:
        session.execute(delete(ExportLink).where(ExportLink.termination_id == case.id))
        if not cancelled:
            certifying.archive_retired(session, ports.signer, case.id)

    return StepResult(
        changes={"archive_purged_at": func.clock_timestamp()}, evidence={"versions": versions}, record=record
    )


def _erase(objects: ObjectStore, folder: str) -> int:
    """Remove all objects of the folder, all their versions, and uploads. Raises NotYet where one is locked."""
    objects.abandon(folder)
    removed = 0
    found = objects.versions(folder)
    while batch := list(islice(found, _BATCH)):
        locked = objects.remove(batch)
        if locked:
            raise NotYet(
                "The object store keeps a version of the record locked (Object Lock), and erases it when that ends.",
                timedelta(days=1),
            )
        removed += len(batch)
    return removed
