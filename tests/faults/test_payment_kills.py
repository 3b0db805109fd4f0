"""A process dies at every boundary of a collection, and the provider loses replies: each invoice is charged once (B21).

Real worker, beat and relay, real SIGKILL, Stripe's own SDK against a provider that loses replies before and after it
charged. At the end there is exactly one charge for each invoice, and the ledger says the same as the provider.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import pytest
from celery import Celery
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome
from tests.faults.places import all_failpoints
from tests.support.rows.paying import is_charged_once, mails, payers
from tests.support.servers.processes import Processes, eventually
from workers.local.servers.payments import PaymentProvider

#: The places of this pipeline.
PAYMENTS = "payments."
#: Many enough that every place has work to die with.
INVOICES = 12
#: What becomes of one request to charge after the other, until every process has died.
REPLIES = ("fine", "lose_after", "lose_before", "fine", "error_after", "fine", "error_before")


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as made:
        yield made


@pytest.mark.timeout(240)
def test_each_invoice_is_charged_once_whoever_dies_and_whatever_is_lost(
    processes: Processes, database: Database, outcome: Outcome, provider: PaymentProvider, tmp_path: Path
) -> None:
    points = {point for point in all_failpoints() if point.startswith(PAYMENTS)}
    fired = tmp_path / "fired"
    fired.mkdir()
    payers(database, INVOICES)
    a_charge_that_the_provider_refuses(database)
    replies = cycle(REPLIES)
    provider.faults.extend(next(replies) for _ in range(3 * INVOICES))
    stripe = {
        "stripe_secret_key": provider.secret_key,
        "stripe_webhook_secret": provider.webhook_secret,
        "stripe_api": provider.address,
    }
    told: set[str] = set()

    armed = {"failpoints": ",".join(f"{point}=kill" for point in points), "failpoints_fired": fired}
    running = (
        processes.worker(**armed, **stripe, wait=False),
        processes.relay(**stripe, wait=False),
        processes.beat(**stripe, wait=False),
    )
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])
    batches = iter(range(100))

    def all_done() -> bool:
        for process in running:
            if not process.alive():
                process.start(wait=False)
        for task in ("payments.plan", "payments.settle", "payments.reconcile"):
            app.send_task(task, queue="payments")
        tell(database, provider, told)
        at_rest = not outcome.query(
            "SELECT FROM tenure.collection_attempts WHERE state NOT IN ('done', 'failed') LIMIT 1"
        ) and outcome.one("SELECT count(*) FROM tenure.collection_attempts")
        if not points - {file.name for file in fired.iterdir()}:
            provider.faults.clear()
            return bool(at_rest)
        if at_rest:
            # Some place has still to be died at: more to collect, more to be lost, and the refused one once more.
            payers(database, 3, prefix=f"mehr-{next(batches)}-")
            provider.faults.extend(next(replies) for _ in REPLIES)
            provider.refused_lists = 1
            with database.connection() as connection:
                connection.execute(
                    text("UPDATE tenure.collection_attempts SET state = 'pending', finished_at = NULL, due_at = now() "
                         "WHERE state = 'failed'")
                )  # fmt: skip
        pause.wait(0.5)
        return False

    pause = Event()
    eventually(all_done, "every place was died at, and all is collected", seconds=200)
    assert points == {file.name for file in fired.iterdir()}
    is_charged_once(database, provider)
    charged = outcome.one("SELECT count(*) FROM tenure.collection_attempts WHERE outcome = 'charged'")
    assert len(mails(database, "payment-received")) == charged >= INVOICES
    assert outcome.one("SELECT count(*) FROM tenure.collection_attempts WHERE state = 'failed'") == 1


def tell(database: Database, provider: PaymentProvider, told: set[str]) -> None:
    """Deliver what is new of the provider's events, and a forged one; and the day is over once more."""
    new = [name for name in list(provider.events) if name not in told]
    deliveries = [provider.webhook(name) for name in new]
    if new:
        deliveries.append(provider.webhook(new[0], secret="whsec_of_another"))
    with database.connection() as connection:
        for body, signature in deliveries:
            connection.execute(
                text("SELECT tenure.record_payment_event(:body, :signature)"), {"body": body, "signature": signature}
            )
        connection.execute(text(THE_DAY_IS_OVER))
    told.update(new)


THE_DAY_IS_OVER = """
    INSERT INTO tenure.reconciliations (provider, day) VALUES ('stripe', (now() AT TIME ZONE 'UTC')::date)
        ON CONFLICT (provider, day) DO UPDATE SET state = 'pending', due_at = now(), finished_at = NULL
        WHERE reconciliations.state IN ('done', 'failed')"""


def a_charge_that_the_provider_refuses(database: Database) -> None:
    """Stripe rounds dinars to ten fils: an attempt that fails for good."""
    payers(database, 1, prefix="dinar-", amount=10_001, currency="KWD")


def test_workers_that_freeze_in_the_middle_charge_nobody_twice(
    processes: Processes, database: Database, outcome: Outcome, provider: PaymentProvider
) -> None:
    """SIGSTOP past the lease, while answers are slow: others take over, the frozen one wakes with its answer."""
    payers(database, 6)
    provider.slowness = 1.0
    provider.faults.extend(["slow"] * 4)
    settings = {"stripe_secret_key": provider.secret_key, "stripe_api": provider.address, "lease_seconds": 2}
    first = processes.worker("first", **settings)
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])
    app.send_task("payments.plan", queue="payments")
    eventually(lambda: provider.charges, "somebody is being charged")
    first.stop()
    processes.worker("second", **settings)

    def taken_over() -> bool:
        for task in ("payments.collect", "payments.settle", "work.rescue"):
            app.send_task(task, queue="payments")
        Event().wait(0.5)
        return outcome.states("collection_attempts") == {"done": 6}

    eventually(taken_over, "the second worker has collected everything")
    is_charged_once(database, provider)
    first.resume()
    Thread(target=first.terminate).start()
    first.await_end()
    is_charged_once(database, provider)
    assert len(mails(database, "payment-received")) == 6
