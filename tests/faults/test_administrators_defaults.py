"""What an administrator has set on the database or the role changes nothing of what Tenure does (W46)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text

from models.base.unit_of_work import SESSION_SETTINGS, Database
from tasks.client.requests import EmailsSendAccountSetUp, submit
from tasks.collection import attempts
from tasks.engine.drain import drain
from tasks.mail import send
from tasks.ports.context import Ports
from tasks.requests import handle
from tests.faults.test_failover import charged, collected, invoiced
from tests.support.rows.paying import is_charged_once, mails
from workers.adapters.payments.stripe import StripeGateway
from workers.local.servers.payments import PaymentProvider

DEFAULTS = {
    "default_transaction_isolation": ["serializable", "repeatable read"],
    "default_transaction_deferrable": ["on"],
    "statement_timeout": ["1ms"],
    "lock_timeout": ["1ms"],
    "transaction_timeout": ["5ms"],
    "idle_session_timeout": ["1ms"],
    "idle_in_transaction_session_timeout": ["1ms"],
    "TimeZone": ["Pacific/Kiritimati", "America/New_York"],
    "search_path": ["nowhere", "pg_temp"],
    "DateStyle": ["SQL, DMY"],
    "IntervalStyle": ["sql_standard", "iso_8601"],
    "bytea_output": ["escape"],
    "extra_float_digits": ["-15"],
    "plan_cache_mode": ["force_generic_plan"],
    "standard_conforming_strings": ["off"],
    "row_security": ["off"],
    "client_min_messages": ["error"],
    "client_encoding": ["LATIN1"],
    "quote_all_identifiers": ["on"],
    "array_nulls": ["off"],
}


@pytest.fixture(params=[(name, value) for name, values in DEFAULTS.items() for value in values], ids="=".join)
def set_otherwise(request: pytest.FixtureRequest, database_url: str) -> Iterator[Database]:
    """A database with a default that Tenure does not expect."""
    name, value = request.param
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {name} = '{value}'")
    made = Database(database_url)
    yield made
    made.engine.dispose()


def test_what_we_set_is_what_holds(set_otherwise: Database) -> None:
    with set_otherwise.connection() as connection:
        shown = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in SESSION_SETTINGS}
        assert connection.execute(text("SELECT interval '1 day 2 hours'")).scalar_one() == timedelta(days=1, hours=2)
    plain = {name: value.replace("\\", "") for name, value in SESSION_SETTINGS.items()}
    assert shown == plain | {"DateStyle": shown["DateStyle"], "idle_in_transaction_session_timeout": "1min"}
    assert shown["DateStyle"].startswith("ISO")


def test_work_is_done_as_ever(set_otherwise: Database, ports: Ports) -> None:
    """A request, a mail, an invoice, a charge and its receipt."""
    charged(set_otherwise)
    invoiced(set_otherwise)
    with PaymentProvider() as provider:
        gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
        ours = replace(ports, database=set_otherwise, payments=gateway)
        with set_otherwise.transaction() as session:
            submit(session, EmailsSendAccountSetUp(account="zahler-1"), dedupe_key="once")
        assert drain(handle.HANDLE, ours) == {"handled": 1}
        collected(set_otherwise, ours)
        is_charged_once(set_otherwise, provider)
        assert drain(attempts.COLLECT, ours) == {"answered": 0}
        gateway.close()
    assert len(mails(set_otherwise, "payment-received")) == 2
    sent = drain(send.SEND, ours).get("sent", 0) + drain(send.SEND_URGENT, ours).get("sent", 0)
    assert sent == 3
