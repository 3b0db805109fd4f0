"""Every recurring task: how often it is due, in which queue, and why so often.

An entry is a tick: it says "look now" and carries no arguments. What is due is known to PostgreSQL, so an entry needs
no time of day, no zone and no memory: hours that a DST change repeats or skips do not exist here (W11), a tick that is
lost or comes twice changes nothing, and any number of Beats may run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Entry:
    task: str
    every: timedelta
    #: The queue of its messages (W8).
    queue: str
    reason: str


TIMETABLE: Sequence[Entry] = (
    Entry("requests.handle", 15 * SECOND, "lifecycle", "Behind the relay, which wakes it within 200 ms of a request."),
    Entry("emails.send_urgent", 10 * SECOND, "urgent", "Behind the relay; security notices do not wait."),
    Entry("emails.send", 30 * SECOND, "mail", "Behind the relay; also what a mail server put off is due again."),
    Entry("emails.settle", 1 * MINUTE, "sweeps", "A lost answer is settled minutes later, or its message sent again."),
    Entry("emails.forget", 1 * HOUR, "sweeps", "Data are kept for days after sending (E12): any hour will do."),
    Entry("details.plan_checks", 1 * HOUR, "sweeps", "People are asked once a year (P8.1): any hour will do."),
    Entry("statements.plan", 60 * SECOND, "documents", "A period closes at any quarter of an hour, somewhere."),
    Entry("statements.render", 30 * SECOND, "documents", "Behind planning, which wakes it."),
    Entry("statements.render_long", 30 * SECOND, "documents", "As above, for statements of many lines."),
    Entry("invoices.issue_due", 60 * SECOND, "documents", "As for statements: a billing day begins somewhere."),
    Entry("invoices.render", 30 * SECOND, "documents", "Behind issuing, which wakes it."),
    Entry("payments.plan", 5 * MINUTE, "payments", "An invoice is due when a local day begins, somewhere."),
    Entry("payments.collect", 30 * SECOND, "payments", "Behind planning, which wakes it."),
    Entry("payments.settle", 30 * SECOND, "payments", "Nobody else asks what became of an unknown payment (B21)."),
    Entry("payments.read_events", 30 * SECOND, "payments", "Behind the relay."),
    Entry("reminders.plan", 5 * MINUTE, "payments", "Business hours begin at any quarter of an hour, somewhere."),
    Entry("payments.reconcile", 1 * HOUR, "payments", "Due once a day, some hours after its end (B24)."),
    Entry("terminations.advance", 30 * SECOND, "lifecycle", "Behind the relay, which also knows when a grace is over."),
    Entry("terminations.export", 30 * SECOND, "lifecycle", "As above."),
    Entry("terminations.purge", 30 * SECOND, "lifecycle", "As above."),
    Entry("certificates.publish", 5 * MINUTE, "lifecycle", "Behind the relay; a copy that waits for S3 is no hurry."),
    Entry("retentions.end", 1 * HOUR, "sweeps", "Kept for years (T8), and gone within the hour after their end."),
    Entry("sessions.sweep", 90 * SECOND, "sweeps", "Gone within an hour of their end (S2); a lost tick costs little."),
    Entry("security.audit_dependencies", 1 * HOUR, "sweeps", "Due once a day; a day without network is caught up."),
    Entry("files.sweep", 10 * MINUTE, "sweeps", "Discarded files go soon; uploads that never ended, after a day."),
    Entry("usage.partition", 6 * HOUR, "sweeps", "Partitions are made three months ahead: any day will do."),
    Entry("work.prune", 1 * HOUR, "sweeps", "Finished rows are kept for weeks or more (W10): any hour will do."),
    Entry("work.rescue", 30 * SECOND, "lifecycle", "Behind new children and drains, which rescue what they see (W4)."),
)
