"""Usage events: written in batches, once each, in the partition of their month (P2.1a)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys, belongs, own_map, relation, written_out
from tasks.client.usage import Usage, record
from tasks.customers.usage_partitions import make
from tasks.ports.context import Ports
from tests.support.rows.company import an_account

HOSTILE = "Mozilla\0/5.0 \ud800 '; DROP TABLE tenure.usage_events; -- %s {0} שלום"


@pytest.fixture
def acme(database: Database) -> AccountKeys:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        an_account(session, ref="other")
        an_account(session, ref="leaving", status="frozen")
    return AccountKeys(account.id, account.ref)


def rows(database: Database) -> list[Any]:
    with database.connection() as connection:
        return list(
            connection.execute(text("SELECT *, host(ip) AS host FROM tenure.usage_events ORDER BY occurred_at"))
        )


def test_a_batch_is_stored_once_however_often_it_is_recorded(database: Database, acme: AccountKeys) -> None:
    batch = [
        Usage(account="acme", action="invoice.viewed", ip="2001:DB8::1", browser=HOSTILE, details={"page": [1, "é"]}),
        Usage(account="other", action="x" * 5_000, ip="192.0.2.1", location="Wien, AT", operating_system="Linux"),
        Usage(account="leaving", action="invoice.viewed"),
        Usage(account="nobody", action="invoice.viewed"),
    ]
    for _ in range(2):
        with database.connection() as connection:
            assert record(connection, [*batch, batch[0]]) == batch[2:]
    with database.connection() as connection:
        assert record(connection, []) == []
    one, other = rows(database)
    assert (one.account_id, one.id, one.occurred_at) == (acme.id, batch[0].id, batch[0].occurred_at)
    assert (one.host, one.details, one.referral_source) == ("2001:db8::1", {"page": [1, "é"]}, None)
    assert one.browser == HOSTILE.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert (other.host, other.location, other.operating_system) == ("192.0.2.1", "Wien, AT", "Linux")
    assert other.action == "x" * 1_000


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"account": ""}, "one of them is empty"),
        ({"ip": "999.1.1.1"}, "no IPv4 or IPv6 address"),
        ({"ip": "192.0.2.1; --"}, "no IPv4 or IPv6 address"),
        ({"occurred_at": datetime(2020, 1, 1)}, "has no zone"),  # noqa: DTZ001
        ({"occurred_at": datetime(1970, 1, 1, tzinfo=UTC)}, "from before 1990"),
        ({"occurred_at": datetime.now(UTC) + timedelta(days=400)}, "from the future"),
    ],
)
def test_an_event_that_can_never_be_stored_is_refused_when_it_is_made(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Usage(**{"account": "acme", "action": "seen"} | values)


def test_details_that_are_no_json_are_said_so_and_never_quoted(database: Database, acme: AccountKeys) -> None:
    for details in ({"x": float("nan")}, {"x": {1}}, {"x": "a\0b"}, {"x": "\udc00"}):
        with database.connection() as connection, pytest.raises(ValueError, match=r"no JSON|cannot be stored"):
            record(connection, [Usage(account="acme", action="seen", details=details)])
    assert rows(database) == []


def test_a_backslash_before_u0000_is_no_nul(database: Database, acme: AccountKeys) -> None:
    with database.connection() as connection:
        record(connection, [Usage(account="acme", action="seen", details={"path": "\\u0000"})])
    assert rows(database)[0].details == {"path": "\\u0000"}


def month(later: int) -> datetime:
    now = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    number = now.year * 12 + now.month - 1 + later
    return now.replace(year=number // 12, month=number % 12 + 1)


def partitions(connection: Connection) -> dict[str, int]:
    """The partitions, and how many events lie in each."""
    names = connection.execute(
        text("""
            SELECT 'tenure.' || relname FROM pg_inherits JOIN pg_class ON oid = inhrelid
             WHERE inhparent = 'tenure.usage_events'::regclass""")
    ).scalars()
    count = "SELECT count(*) FROM {}"
    return {name: connection.execute(text(count.format(name))).scalar_one() for name in sorted(names)}


def test_partitions_are_made_ahead_and_history_when_asked(database: Database, ports: Ports, acme: AccountKeys) -> None:
    ahead = [f"tenure.usage_events_{month(n):%Y%m}" for n in range(4)]
    with database.connection() as connection:
        assert partitions(connection) == dict.fromkeys([*ahead, "tenure.usage_events_default"], 0)
        connection.execute(text(f"DROP TABLE {ahead[1]}, {ahead[3]}"))
        # Nobody made a partition for the month after this one, and an event of it comes: it is stored all the same.
        connection.execute(
            text("""
                INSERT INTO tenure.usage_events (account_id, occurred_at, action)
                VALUES (:account, :next, 'early'), (:account, now(), 'now'), (:account, :old, 'old')"""),
            {"account": acme.id, "next": month(1) + timedelta(days=3), "old": month(-30)},
        )
    assert [make(ports), make(ports)] == [1, 0]
    with database.connection() as connection:
        assert partitions(connection) == {ahead[0]: 1, ahead[2]: 0, ahead[3]: 0, "tenure.usage_events_default": 2}
        # Before an import, its months are made; of the two that the default partition holds events of, it stays so.
        made = connection.execute(text("SELECT tenure.make_usage_partitions(:since)"), {"since": month(-31)})
        assert made.scalar_one() == 30
        assert partitions(connection)["tenure.usage_events_default"] == 2
        with pytest.raises(Exception, match="usage before 1990 is not kept"), connection.begin_nested():
            connection.execute(text("SELECT tenure.make_usage_partitions('1000-01-01')"))


def test_a_busy_table_is_left_to_the_next_tick(database: Database, ports: Ports) -> None:
    with database.connection() as connection:
        connection.execute(text(f"DROP TABLE tenure.usage_events_{month(3):%Y%m}"))
    with database.connection() as busy:
        busy.execute(text("LOCK TABLE tenure.usage_events"))
        assert make(ports) == 0
    assert make(ports) == 1


def test_an_accounts_events_are_found_by_index_in_every_partition(database: Database, acme: AccountKeys) -> None:
    """A sequential scan over the events of all accounts would make each export and purge read hundreds of millions."""
    mapped = next(each for each in own_map(Base).tables if each.name.table == "usage_events")
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.accounts (ref, name, currency) SELECT 'many-' || n, 'n', 'EUR'
                  FROM generate_series(1, 100) AS n""")
        )
        connection.execute(
            text("""
                INSERT INTO tenure.usage_events (account_id, occurred_at, action)
                SELECT id, date_trunc('month', now()) + make_interval(months => month, days => day), 'seen'
                  FROM tenure.accounts, generate_series(-1, 3) AS month, generate_series(0, 27) AS day
                 WHERE status = 'active'""")
        )
        connection.execute(text("ANALYZE tenure.usage_events"))
        rows = relation(mapped.name)
        for statement in (
            rows.delete().where(belongs(mapped, acme)),
            relation(mapped.name, *mapped.key)
            .select()
            .where(belongs(mapped, acme))
            .order_by(*map(text, mapped.key))
            .limit(10),
        ):
            plan = "\n".join(
                connection.exec_driver_sql("EXPLAIN " + written_out(statement).replace("%", "%%")).scalars()
            )
            # Of an empty partition PostgreSQL reads the nothing that is there.
            assert not re.search(r"Seq Scan on usage_events\S*( \S+)?  \(cost=0\.00\.\.(?!0\.00)", plan), plan
            assert "_pkey" in plan, plan


def test_whose_event_it_is_must_exist(database: Database) -> None:
    with database.connection() as connection, pytest.raises(Exception, match="foreign key"), connection.begin_nested():
        connection.execute(
            text("INSERT INTO tenure.usage_events (account_id, action) VALUES (:nobody, 'seen')"), {"nobody": uuid4()}
        )
