"""Reconciliation: every night, what the provider did is compared with the ledger (B24).

`payments.reconcile`, ticked by the clock, makes a row for each day that is over and looks at it. What the ledger lacks,
because an event was lost, is recorded as if it had come. Then there is no difference, or the row says which: `tenure
payments reconcile` and `tenure policy` show it, and the day is looked at again every night. Twice, it finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import structlog
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from models.billing.ledger import EntryKind
from models.collection.reconciliation import Reconciliation
from tasks.collection.attempts import configured
from tasks.collection.events import attempt_of
from tasks.collection.outcome import record_payment
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Permanent
from tasks.ports.context import Ports, provider_is_configured
from tasks.ports.payments import Movement

log = structlog.get_logger()

#: Every day since the first attempt that has none yet, a month back at the most. A day is looked at some hours after
#: its end, when what happened in it has come to rest; one that differs, again every night.
PLAN = text("""
    INSERT INTO tenure.reconciliations (provider, day, due_at)
    SELECT :provider, day::date, (day + interval '1 day 3 hours') AT TIME ZONE 'UTC'
      FROM (SELECT greatest((asked_at AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date - 30) AS first_day
              FROM tenure.collection_attempts WHERE asked_at IS NOT NULL
             -- Ids are in the order of time: the first attempt is found without reading all of them.
             ORDER BY id LIMIT 1) AS attempts,
           generate_series(first_day, (now() AT TIME ZONE 'UTC')::date - 1, interval '1 day') AS day
        ON CONFLICT (provider, day) DO NOTHING""")

AGAIN = text("""
    UPDATE tenure.reconciliations
       SET state = 'pending', attempts = 0, due_at = now(), finished_at = NULL, claim_token = NULL, claimed_by = NULL
     WHERE state = 'done' AND differences <> '[]' AND finished_at < now() - interval '20 hours'""")

ENTRIES = text("""
    SELECT external_ref, kind, currency, amount FROM tenure.ledger_entries
     WHERE external_ref LIKE :prefix
       AND (external_ref = ANY (:refs) OR occurred_at >= :since AND occurred_at < :until)""")


@dataclass(frozen=True, slots=True)
class Compared:
    """What the provider did in a time, how much the ledger had lacked of it, and what still differs, in sentences."""

    movements: int
    recorded: int
    differences: Sequence[str]


def compare(ports: Ports, since: datetime, until: datetime) -> Compared:
    """Record what the ledger lacks of what the provider did, and say what differs after that."""
    gateway = configured(ports)
    prefix = gateway.provider
    did = list(gateway.movements(since, until))
    failpoint("payments.reconcile", "after_list")
    known = _entries(ports, prefix, did, since, until)
    foreign: set[str] = set()
    recorded = 0
    for name in sorted({payment for payment, movement in did if f"{prefix}:{movement.id}" not in known}):
        payment = gateway.look(name)
        if payment is None or payment.key is None:
            # The company's account at the provider may have other uses than ours.
            foreign.add(name)
            continue
        try:
            with ports.database.transaction() as session:
                found = attempt_of(session, payment)
                if found is not None:
                    recorded += record_payment(session, found[0], payment, ports)
        except Permanent as refused:
            # One account whose ledger is closed does not keep the others from being compared; it differs below.
            log.warning("payments.not_recorded", payment=name, reason=str(refused))
        failpoint("payments.reconcile", "after_record")
    ours = [(payment, movement) for payment, movement in did if payment not in foreign]
    known = _entries(ports, prefix, ours, since, until)
    differences = []
    for name, movement in ours:
        entry = known.pop(f"{prefix}:{movement.id}", None)
        if entry is None:
            differences.append(f"{movement.id} of {name} is not in the ledger.")
        elif entry != _entry(movement):
            differences.append(f"{movement.id} of {name} has another kind, amount or currency in the ledger.")
    differences += [
        f"{ref.removeprefix(prefix + ':')} is in the ledger, and the provider has no such thing." for ref in known
    ]
    return Compared(len(ours), recorded, sorted(differences))


def _entry(movement: Movement) -> tuple[str, str, int]:
    sign = -1 if movement.kind is EntryKind.PAYMENT else 1
    return movement.kind.value, movement.currency, sign * movement.amount


def _entries(
    ports: Ports, prefix: str, did: Sequence[tuple[str, Movement]], since: datetime, until: datetime
) -> dict[str, tuple[str, str, int]]:
    refs = [f"{prefix}:{movement.id}" for _, movement in did]
    values = {"prefix": f"{prefix}:%", "refs": refs, "since": since, "until": until}
    with ports.database.connection() as connection:
        rows = connection.execute(ENTRIES, values)
        return {row.external_ref: (row.kind, row.currency, row.amount) for row in rows}


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, date]:
    rows = session.execute(select(Reconciliation.id, Reconciliation.day).where(Reconciliation.id.in_(ids)))
    return {row.id: row.day for row in rows}


def reconcile(day: date, claimed: ClaimedRow) -> Compared:
    begins = datetime.combine(day, time(), UTC)
    return compare(claimed.ports, begins, begins + timedelta(days=1))


def record(session: Session, results: Mapping[UUID, Compared], _ports: Ports) -> None:
    for row, found in results.items():
        if found.differences:
            log.error("payments.differ", row=str(row), differences=len(found.differences))
        session.execute(
            update(Reconciliation)
            .where(Reconciliation.id == row)
            .values(movements=found.movements, recorded=found.recorded, differences=list(found.differences))
        )


RECONCILE = Job(
    "payments.reconcile", Reconciliation, load, reconcile, record, done="reconciled", batch=1, record_every=1,
    wakes=("emails.send_urgent", "emails.send"), retries=DAYS,
)  # fmt: skip


def plan(ports: Ports) -> int:
    """Make a row for each day that is over, and look again at those that differ; returns how many are new."""
    if ports.payments is None:
        return 0
    with ports.database.connection() as connection:
        planned = connection.execute(PLAN, {"provider": ports.payments.provider}).rowcount
        connection.execute(AGAIN)
        failpoint("payments.reconcile", "before_plan_commit")
    return planned


reconcile_days = tick(RECONCILE, only_if=provider_is_configured, first=plan)
