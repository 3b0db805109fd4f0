"""What becomes of messages after their sending: what nobody could tell is settled, what is old is forgotten.

Ticked by the clock; both are questions to PostgreSQL, so a tick too many finds nothing to do.

- `emails.settle`: an `unknown` message of which a provider has told since is known. One of a kind that had rather come
  twice than not at all is sent again, once, with the same Message-ID (E10).
- `emails.forget`: the data of a message are deleted so many days after its end, in short transactions, and go on where
  they were broken off. Of the address a hash stays, and of the content the hash of what was sent (E12).
"""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from sqlalchemy import text

from email_templates.catalogue import MESSAGES
from models.mail.email_message import EmailMessage
from models.work import row
from tasks.engine.failpoints import failpoint
from tasks.engine.task import Tick
from tasks.mail.events import settle_by_events
from tasks.ports.context import Ports, current

#: How long a provider has to tell of a message before it is sent again.
UNKNOWN_MAIL_GRACE = timedelta(minutes=5)
#: Rows in one transaction.
BATCH = 5_000

SEND_AGAIN = text("""
    UPDATE tenure.email_messages
       SET state = 'pending', attempts = 0, committing_at = NULL, sent_again_at = clock_timestamp(), due_at = now(),
           finished_at = NULL, claim_token = NULL, claimed_by = NULL
     WHERE state = 'unknown' AND sent_again_at IS NULL AND message = ANY (:kinds)
       AND finished_at <= now() - :patience
       AND (account_id IS NULL OR account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active'))""")

FORGET = text("""
    UPDATE tenure.email_messages
       SET context = '{}', forgotten_at = clock_timestamp(),
           recipient = CASE WHEN recipient IS NOT NULL THEN CAST('{}' AS jsonb) END,
           to_address = 'sha256:' || encode(sha256(convert_to(lower(to_address), 'UTF8')), 'hex')
     WHERE id = ANY (ARRAY(
         SELECT id FROM tenure.email_messages
          WHERE finished_at <= now() - :remembered AND finished_at IS NOT NULL AND forgotten_at IS NULL
          ORDER BY finished_at LIMIT :batch FOR UPDATE SKIP LOCKED))""")

#: Confirmed changes are kept no longer than the messages about them.
FORGET_CHANGES = text("""
    UPDATE tenure.detail_changes SET changes = '[]'
     WHERE id = ANY (ARRAY(
         SELECT id FROM tenure.detail_changes
          WHERE changed_at <= now() - :remembered AND changes <> '[]'
            AND account_id NOT IN (SELECT id FROM tenure.accounts WHERE status <> 'active')
            AND NOT EXISTS (SELECT FROM tenure.job_requests
                             WHERE kind = 'details.confirm_change' AND dedupe_key = 'change:' || detail_changes.id
                               AND state IN ('pending', 'running', 'failed'))
          LIMIT :batch FOR UPDATE SKIP LOCKED))""")


def settle(ports: Ports, *, patience: timedelta = UNKNOWN_MAIL_GRACE) -> dict[str, int]:
    """Returns how many were settled by events, and how many are due once more."""
    kinds = [name for name, message in MESSAGES.items() if message.resend_if_unknown]
    with ports.database.transaction() as session:
        settled = settle_by_events(session)
        again = session.connection().execute(SEND_AGAIN, {"kinds": kinds, "patience": patience}).rowcount
        if again:
            row.announce(session.connection(), EmailMessage)
        failpoint("emails.settle", "before_commit")
    failpoint("emails.settle", "after_commit")
    return {"settled": settled, "again": again}


def forget(ports: Ports, *, batch: int = BATCH) -> int:
    """Delete what is older than `ports.remembered`; returns how many rows."""
    gone = 0
    for statement in (FORGET, FORGET_CHANGES):
        last = batch
        while last == batch and not ports.stopping():
            with ports.database.connection() as connection:
                last = connection.execute(statement, {"remembered": ports.remembered, "batch": batch}).rowcount
                failpoint("emails.forget", "before_commit")
            failpoint("emails.forget", "after_commit")
            gone += last
    return gone


@shared_task(name="emails.settle", base=Tick)
def settle_messages() -> dict[str, int]:
    return settle(current())


@shared_task(name="emails.forget", base=Tick)
def forget_messages() -> dict[str, int]:
    return {"forgotten": forget(current())}
