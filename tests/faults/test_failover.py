"""A standby is promoted: what it lost is done again as the same act; what was acknowledged by two servers is there
(W48).
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from tasks.billing.invoice_issue import issue_batch
from tasks.billing.statement_plan import plan_batch
from tasks.certificates import erasure_notes
from tasks.collection import attempts
from tasks.collection.plan import plan
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.conftest import roomy_memory
from tests.support.rows.certifying import a_termination
from tests.support.rows.company import an_account
from tests.support.rows.paying import PRICE, SEED, SELLER, is_charged_once, mails
from tests.support.servers.database_proxy import DatabaseProxy
from tests.support.servers.processes import Processes, eventually, throughout
from tests.support.servers.standby import Pair, pair
from tests.support.time.deadlines import deadline
from workers.adapters.payments.stripe import StripeGateway
from workers.local.servers.payments import PaymentProvider


@pytest.fixture
def servers_of_a_pair() -> Iterator[Pair]:
    directory = Path(tempfile.mkdtemp(prefix="tenure-", dir=roomy_memory()))
    directory.chmod(0o755)
    try:
        with pair(directory) as made:
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def charged(database: Database) -> None:
    """Customers with a card and a charge that is on no invoice yet."""
    with database.transaction() as session:
        session.execute(SEED, {"count": 2, "prefix": "zahler-", "time_zone": "UTC", "amount": PRICE, "currency": "EUR"})


def invoiced(database: Database) -> None:
    with database.transaction() as session:
        for account in session.scalars(text("SELECT id FROM tenure.accounts ORDER BY ref")).all():
            issue_batch(session, SELLER, account)


def collected(database: Database, ports: Ports) -> None:
    """Collect until both invoices are; a drain ends early where the provider is slow to answer."""
    ours = replace(ports, database=database)

    def both() -> bool:
        plan(ours)
        drain(attempts.COLLECT, ours)
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.collection_attempts SET due_at = now() WHERE state = 'pending'"))
            done = connection.execute(text("SELECT count(*) FROM tenure.collection_attempts WHERE state = 'done'"))
            return bool(done.scalar_one() == 2)

    eventually(both, "both invoices are collected")


def identities(database: Database) -> list[tuple[str, str, str]]:
    """What the outside knows our work by: keys at the provider, object names, Message-IDs."""
    with database.connection() as connection:
        return [
            (row.kind, str(row.id), row.more)
            for row in connection.execute(
                text("""
                    SELECT 'attempt' AS kind, id, '' AS more FROM tenure.collection_attempts
                     UNION ALL SELECT 'invoice', id, '' FROM tenure.invoices
                     UNION ALL SELECT 'document', id, '' FROM tenure.invoice_documents
                     UNION ALL SELECT 'mail', NULL, message_id FROM tenure.email_messages
                     ORDER BY kind, id, more""")
            )
        ]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("lost", ["the attempts", "the invoices too"])
@pytest.mark.parametrize("key", ["known to the provider", "forgotten by the provider"])
def test_a_promoted_standby_that_lost_a_charge_does_not_charge_again(
    servers_of_a_pair: Pair, ports: Ports, lost: str, key: str
) -> None:
    both = servers_of_a_pair
    first = both.database(both.primary)
    charged(first)
    if lost == "the attempts":
        invoiced(first)
    both.cut()
    with PaymentProvider() as provider:
        gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
        paying = replace(ports, payments=gateway)
        if lost != "the attempts":
            invoiced(first)
        collected(first, paying)
        before = identities(first)
        assert len(provider.charged()) == 2
        promoted = both.fail_over()
        assert [each for each in identities(promoted) if each[0] == "attempt"] == []
        if key == "forgotten by the provider":
            provider._keys.clear()
        if lost != "the attempts":
            invoiced(promoted)
        collected(promoted, paying)
        assert len(provider.charged()) == 2
        is_charged_once(promoted, provider)
        assert identities(promoted) == before
        assert len(mails(promoted, "payment-received")) == 2
        gateway.close()


@pytest.mark.timeout(180)
def test_statements_that_were_lost_are_planned_again_under_the_same_names(servers_of_a_pair: Pair) -> None:
    both = servers_of_a_pair
    first = both.database(both.primary)
    charged(first)
    with first.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET period_start = now()::date - 40"))
        connection.execute(
            text("""
                INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
                SELECT id, 'charge', 'EUR', 100, 'Earlier', now() - interval '39 days' FROM tenure.accounts""")
        )
    both.cut()
    names: list[list[str]] = []
    for database in (first, None):
        at = database or both.fail_over()
        with at.transaction() as session:
            assert plan_batch(session, SELLER)[1] == 2
            names.append(sorted(str(each) for each in session.scalars(text("SELECT id FROM tenure.statements"))))
    assert names[0] == names[1]


@pytest.mark.timeout(180)
def test_a_synchronous_standby_that_is_promoted_under_load_has_every_acknowledged_request(
    servers_of_a_pair: Pair,
) -> None:
    both = servers_of_a_pair
    first = both.database(both.primary)
    with first.transaction() as session:
        an_account(session, ref="acme")
    both.synchronous()
    acknowledged: list[str] = []
    enough = threading.Event()

    def ask(writer: int) -> None:
        database = both.database(both.primary)
        for number in range(100_000):
            key = f"{writer}-{number}"
            try:
                with database.connection() as connection:
                    connection.execute(
                        text("SELECT tenure.request('statements.send', '{\"account\": \"acme\"}', :key)"), {"key": key}
                    )
            except DBAPIError:
                return
            acknowledged.append(key)
            if len(acknowledged) >= 200:
                enough.set()

    writers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    assert enough.wait(deadline(60))
    promoted = both.fail_over()
    for writer in writers:
        writer.join(deadline(60))
    with promoted.connection() as connection:
        found = set(connection.scalars(text("SELECT dedupe_key FROM tenure.job_requests")))
    assert set(acknowledged) <= found
    assert len(found) - len(acknowledged) <= len(writers), "more than the one request of each that was under way"


@pytest.mark.timeout(180)
def test_a_worker_that_lives_through_a_failover_stops_if_an_erasure_was_lost(
    servers_of_a_pair: Pair, ports: Ports, processes: Processes
) -> None:
    """A promoted copy may hold data of a customer who was erased: the worker sees it as one that starts does."""
    both = servers_of_a_pair
    first = both.database(both.primary)
    address = make_url(both.primary)
    with DatabaseProxy(str(address.host), int(address.port or 0)) as proxy:
        near = address.set(host=proxy.address[0], port=proxy.address[1]).render_as_string(hide_password=False)
        worker = processes.worker(database_url=near)
        both.cut()
        with first.transaction() as session:
            termination = a_termination(session).id
        erasure_notes.note(replace(ports, database=first), termination)
        throughout(worker.alive, "it works on a database that knows the erasure", seconds=7)
        proxy.port = int(make_url(both.standby).port or 0)
        both.fail_over()
        worker.await_end()
    assert "erasures.unknown" in worker.text()
