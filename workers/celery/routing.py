"""Which task goes to which queue: one table (W8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Where plain Celery clients publish without being told a queue: requests from outside.
INBOUND = "celery"

#: In the order in which a free worker looks at them.
QUEUES: Sequence[str] = ("urgent", INBOUND, "lifecycle", "payments", "mail", "documents", "sweeps")

ROUTES: Mapping[str, str] = {
    "emails.send_urgent": "urgent",
    "requests.handle": "lifecycle",
    "terminations.advance": "lifecycle",
    "terminations.export": "lifecycle",
    "terminations.purge": "lifecycle",
    "work.rescue": "lifecycle",
    "work.prune": "sweeps",
    "certificates.publish": "lifecycle",
    "emails.send": "mail",
    "invoices.issue_due": "documents",
    "invoices.render": "documents",
    "statements.plan": "documents",
    "statements.render": "documents",
    "statements.render_long": "documents",
    "payments.plan": "payments",
    "payments.collect": "payments",
    "payments.settle": "payments",
    "payments.read_events": "payments",
    "payments.reconcile": "payments",
    "reminders.plan": "payments",
    "retentions.end": "sweeps",
    "sessions.sweep": "sweeps",
    "security.audit_dependencies": "sweeps",
    "files.sweep": "sweeps",
    "usage.partition": "sweeps",
    "emails.settle": "sweeps",
    "emails.forget": "sweeps",
    "details.plan_checks": "sweeps",
    # Requests: what the web tier sends by name.
    "details.confirm_change": INBOUND,
    "emails.record_event": INBOUND,
    "emails.send_account_set_up": INBOUND,
    "emails.unsubscribe": INBOUND,
    "invoices.issue": INBOUND,
    "invoices.send": INBOUND,
    "invoices.void": INBOUND,
    "payments.record_event": INBOUND,
    "reminders.dispute": INBOUND,
    "reminders.pause": INBOUND,
    "reminders.promise": INBOUND,
    "sessions.revoke": INBOUND,
    "statements.send": INBOUND,
    "terminations.cancel": INBOUND,
    "terminations.request": INBOUND,
}
