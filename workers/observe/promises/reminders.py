"""Evidence about payment reminders for `tenure policy`: once a day, in time, and none that is due is missing."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from tasks.reminders import book
from tasks.reminders.ladder import decide
from workers.observe.promises.evidence import NEW, Evidence, Installation, Verdict, judged

#: How long a letter that is due may wait to be written.
LETTER_GRACE = timedelta(hours=1)

SENT = text("""
    SELECT count(DISTINCT letter.id) AS letters,
           count(*) FILTER (WHERE (email.committing_at AT TIME ZONE account.time_zone)::date <> letter.local_day)
               AS late,
           count(DISTINCT letter.id) - count(DISTINCT (letter.account_id, letter.currency, letter.local_day)) AS doubled
      FROM tenure.reminder_letters AS letter
      JOIN tenure.reminder_copies AS copy ON copy.letter_id = letter.id
      JOIN tenure.email_messages AS email ON email.id = copy.email_message_id AND email.state = 'done'
      JOIN tenure.accounts AS account ON account.id = letter.account_id
     WHERE letter.written_at > now() - :new""")


def reminders_leave_once_and_in_time(installation: Installation) -> Evidence:
    """P3.1d: one letter a customer and day, on its day, and nobody who is to be reminded is not (B16)."""
    with Session(bind=installation.connection) as session:
        known = book.policies(session)
        if not known.by_id:
            return Evidence(Verdict.UNKNOWN, "There is no reminder policy: nobody is reminded.")
        sent = session.execute(SENT, {"new": NEW}).one()
        now = book.clock(session)
        due = session.scalars(book.CANDIDATES, {"now": now - LETTER_GRACE}).all()
        missing = sum(
            decide(customer, now - LETTER_GRACE) is not None and decide(customer, now) is not None
            for customer in book.load(session, due, now, known=known)
        )
    return judged(
        sent.late == sent.doubled == missing == 0,
        f"{sent.letters} letters sent since yesterday, {sent.doubled} of them the second of a day, "
        f"{sent.late} not on their day; "
        f"{missing} due for an hour and not written",
    )
