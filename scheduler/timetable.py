"""Every recurring job, how often it is looked at, and why so often.

An entry is a tick: it says "look now" and carries no arguments. What is due is known to PostgreSQL, so an entry needs
no time of day, no zone and no memory: hours that a DST change repeats or skips do not exist here (W11), a tick that is
lost or comes twice changes nothing, and any number of Beats may run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Entry:
    task: str
    every: timedelta
    reason: str


TIMETABLE: Sequence[Entry] = (
    Entry("requests.handle", timedelta(seconds=15), "Behind the relay, which wakes it within 200 ms of a request."),
    Entry("emails.send_urgent", timedelta(seconds=10), "Behind the relay; security notices do not wait."),
    Entry("emails.send", timedelta(seconds=30), "Behind the relay; also what a mail server put off is due again."),
    Entry("emails.settle", timedelta(minutes=1), "A lost answer is settled minutes later, or its message sent again."),
    Entry("emails.forget", timedelta(hours=1), "Data are kept for days after sending (E12): any hour will do."),
    Entry("details.plan_checks", timedelta(hours=1), "People are asked once a year (P8.1): any hour will do."),
    Entry("statements.plan", timedelta(seconds=60), "A period closes at any quarter of an hour, somewhere on earth."),
    Entry("statements.render", timedelta(seconds=30), "Behind planning, which wakes it."),
    Entry("statements.render_long", timedelta(seconds=30), "As above, for statements of many lines."),
    Entry("invoices.issue_due", timedelta(seconds=60), "As for statements: a billing day begins somewhere on earth."),
    Entry("invoices.render", timedelta(seconds=30), "Behind issuing, which wakes it."),
    Entry("payments.plan", timedelta(minutes=5), "An invoice is due when a local day begins, somewhere on earth."),
    Entry("payments.collect", timedelta(seconds=30), "Behind planning, which wakes it."),
    Entry("payments.settle", timedelta(seconds=30), "Nobody else asks what became of an unknown payment (B21)."),
    Entry("payments.read_events", timedelta(seconds=30), "Behind the relay."),
    Entry(
        "reminders.plan", timedelta(minutes=5), "Business hours begin at any quarter of an hour, somewhere on earth."
    ),
    Entry("payments.reconcile", timedelta(hours=1), "Due once a day, some hours after its end (B24)."),
    Entry("terminations.advance", timedelta(seconds=30), "Behind the relay, which also knows when a grace is over."),
    Entry("terminations.export", timedelta(seconds=30), "As above."),
    Entry("terminations.purge", timedelta(seconds=30), "As above."),
    Entry("certificates.publish", timedelta(minutes=5), "Behind the relay; a copy that waits for S3 is no hurry."),
    Entry("retentions.end", timedelta(hours=1), "Kept for years (T8), and gone within the hour after their end."),
    Entry("sessions.sweep", timedelta(seconds=90), "Gone within an hour of their end (S2); a lost tick costs little."),
    Entry("security.audit_dependencies", timedelta(hours=1), "Due once a day; a day without network is caught up."),
    Entry("files.sweep", timedelta(minutes=10), "Discarded files go soon; uploads that never ended, after a day."),
    Entry("usage.partition", timedelta(hours=6), "Partitions are made three months ahead: any day will do."),
    Entry("work.prune", timedelta(hours=1), "Finished rows are kept for weeks or more (W10): any hour will do."),
    Entry("work.rescue", timedelta(seconds=30), "Behind new children and drains, which rescue what they can see (W4)."),
)
