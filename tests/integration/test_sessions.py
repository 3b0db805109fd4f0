"""Sessions: readable to the second, swept in short transactions that do not disturb each other (S2, P9.3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from models.unit_of_work import Database
from tasks import sessions
from tasks.ports import Ports
from tests.company import an_account


@pytest.fixture
def account_id(database: Database) -> UUID:
    with database.transaction() as session:
        return an_account(session).id


def signed_in(connection: Any, account_id: UUID, ages: dict[str, str]) -> None:
    """A session of each name, made so long ago by the clock of the transaction."""
    for name, age in ages.items():
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (account_id, secret_sha256, user_agent, created_at)
                VALUES (:account, :secret, :name, now() - CAST(:age AS interval))"""),
            {"account": account_id, "secret": b"x", "name": name, "age": age},
        )


def many(database: Database, account_id: UUID, count: int, age: str) -> None:
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (account_id, secret_sha256, created_at)
                SELECT :account, '', now() - CAST(:age AS interval) FROM generate_series(1, :count)"""),
            {"account": account_id, "age": age, "count": count},
        )


def names(connection: Any, where: str) -> set[str]:
    return set(connection.execute(text(f"SELECT user_agent FROM tenure.{where}")).scalars())


def left(database: Database) -> int:
    with database.connection() as connection:
        return int(connection.execute(text("SELECT count(*) FROM tenure.sessions")).scalar_one())


def test_a_session_is_unreadable_from_the_second_that_it_is_a_day_old(database: Database, account_id: UUID) -> None:
    with database.connection() as connection:
        signed_in(
            connection,
            account_id,
            {"new": "0", "nearly": "23:59:59", "old": "24:00:01", "at the very second": "24:00:00"},
        )
        # The view goes by the clock of the statement, which is a little later than that of the transaction.
        assert names(connection, "live_sessions") == {"new", "nearly"}
        assert len(names(connection, "sessions")) == 4


def test_a_session_ends_within_a_transaction_that_stays_open(database: Database, account_id: UUID) -> None:
    with database.connection() as connection:
        signed_in(connection, account_id, {"about to end": "23:59:59.9"})
        connection.execute(text("SELECT pg_sleep(0.11)"))
        assert names(connection, "live_sessions") == set()


def test_reading_a_session_does_not_make_it_last_longer(database: Database, account_id: UUID) -> None:
    with database.connection() as connection:
        signed_in(connection, account_id, {"about to end": "23:59:59.8"})
        for _ in range(3):
            names(connection, "live_sessions")
        connection.execute(text("SELECT pg_sleep(0.21)"))
        assert names(connection, "live_sessions") == set()


def test_the_sweep_removes_what_nobody_can_read_and_nothing_else(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    with database.connection() as connection:
        signed_in(connection, account_id, {"new": "0", "nearly": "23:59:50", "old": "24:00:00", "older": "9 days"})
    assert sessions.sweep(ports) == 2
    with database.connection() as connection:
        assert names(connection, "sessions") == {"new", "nearly"} == names(connection, "live_sessions")
    assert sessions.sweep(ports) == 0


def test_the_sweep_works_in_batches_oldest_first(database: Database, ports: Ports, account_id: UUID) -> None:
    many(database, account_id, 25, "25 hours")
    many(database, account_id, 10, "30 hours")
    looked: list[int] = []

    def stopping() -> bool:
        looked.append(left(database))
        return False

    assert sessions.sweep(replace(ports, stopping=stopping), batch=10) == 35
    # Committed one by one: another connection saw each.
    assert looked == [35, 25, 15, 5]
    many(database, account_id, 3, "25 hours")
    many(database, account_id, 3, "99 hours")
    assert sessions.sweep(replace(ports, stopping=iter([False, True]).__next__), batch=3) == 3
    with database.connection() as connection:
        oldest = connection.execute(text("SELECT max(now() - created_at) FROM tenure.sessions")).scalar_one()
    assert oldest < timedelta(hours=26)


def test_a_sweep_that_is_stopped_half_way_keeps_what_it_did_and_the_next_goes_on(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    many(database, account_id, 50, "25 hours")
    stop = iter([False, False, True])
    assert sessions.sweep(replace(ports, stopping=lambda: next(stop)), batch=10) == 20
    assert left(database) == 30
    assert sessions.sweep(ports, batch=10) == 30


def test_two_sweeps_at_once_share_the_work_and_count_each_session_once(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    many(database, account_id, 3_000, "25 hours")
    many(database, account_id, 5, "1 hour")
    start = Barrier(2)
    swept: list[int] = []

    def race() -> None:
        start.wait(timeout=30)
        swept.append(sessions.sweep(ports, batch=100))

    threads = [Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(swept) + sessions.sweep(ports) == 3_000
    assert left(database) == 5


def test_the_sweep_passes_over_a_session_that_somebody_is_ending(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    many(database, account_id, 5, "25 hours")
    with database.connection() as connection:
        connection.execute(
            text("DELETE FROM tenure.sessions WHERE id = (SELECT min(id::text)::uuid FROM tenure.sessions)")
        )
        assert sessions.sweep(ports) == 4
        connection.rollback()
    assert sessions.sweep(ports) == 1


def test_revoking_ends_the_sessions_of_one_account_of_any_age(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    with database.transaction() as session:
        other = an_account(session).id
        signed_in(session, account_id, {"mine": "0", "mine too": "25 hours"})
        signed_in(session, other, {"theirs": "0"})
    with database.transaction() as session:
        sessions.revoke(session, account_id, UUID(int=1), ports)
    with database.connection() as connection:
        assert names(connection, "sessions") == {"theirs"}


def test_the_database_says_what_time_it_is_not_the_worker(database: Database, account_id: UUID) -> None:
    with database.connection() as connection:
        signed_in(connection, account_id, {"new": "0"})
        made = connection.execute(text("SELECT created_at FROM tenure.live_sessions")).scalar_one()
        now = connection.execute(text("SELECT now()")).scalar_one()
    assert made == now
    assert made.tzinfo is not None
    assert made.astimezone(UTC) < datetime.now(UTC) + timedelta(minutes=5)
