"""Tenure's own sessions: readable to the second, swept by the partition, in nobody's way (S1 to S4, S6, P9.3)."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.customers.account import Account
from models.schema import rights
from tasks.client import sessions as web_session
from tasks.client.sessions import SessionRefused
from tasks.ports.context import Ports
from tasks.sessions import sweep
from tests.support.rows.company import a_contact, an_account
from tests.support.time.deadlines import deadline


@pytest.fixture
def account_id(database: Database) -> UUID:
    with database.transaction() as session:
        return an_account(session, ref="acme").id


def signed_in(connection: Any, account_id: UUID, ages: dict[str, str]) -> None:
    """A session of each name, made so long ago by the database's clock."""
    for name, age in ages.items():
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (id, account_id, secret_sha256, user_agent)
                VALUES (uuidv7(- CAST(:age AS interval)), :account, sha256(''), :name)"""),
            {"account": account_id, "name": name, "age": age},
        )


def many(database: Database, account_id: UUID, number: int, age: str) -> None:
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (id, account_id, secret_sha256)
                SELECT uuidv7(- CAST(:age AS interval)), :account, sha256('') FROM generate_series(1, :number)"""),
            {"account": account_id, "age": age, "number": number},
        )


def partition(database: Database, age: str) -> str:
    """A partition for what was made so long ago, as the sweep of that time made it."""
    with database.connection() as connection:
        return str(
            connection.execute(
                text("SELECT tenure.make_session_partition(now() - CAST(:age AS interval))"), {"age": age}
            ).scalar_one()
        )


def partitions(database: Database) -> dict[str, int]:
    """How many sessions each partition holds."""
    with database.connection() as connection:
        names = connection.scalars(text("SELECT name FROM tenure.session_partitions")).all()
        held = connection.execute(
            text("SELECT tableoid::regclass::text AS name, count(*) FROM tenure.sessions GROUP BY 1")
        )
        return dict.fromkeys(names, 0) | {row[0].rpartition(".")[2]: row[1] for row in held}


def without_partitions(database: Database) -> None:
    """As it is when no sweep has run for days: there are none for now."""
    with database.connection() as connection:
        for name in connection.scalars(text("SELECT name FROM tenure.session_partitions")).all():
            connection.execute(text(f"DROP TABLE tenure.{name}"))


def names(connection: Any, where: str) -> set[str]:
    return set(connection.execute(text(f"SELECT user_agent FROM tenure.{where}")).scalars())


def left(database: Database) -> int:
    with database.connection() as connection:
        return int(connection.execute(text("SELECT count(*) FROM tenure.sessions")).scalar_one())


@contextmanager
def a_reader(database_url: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody whose transaction stays open after a statement."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement)
        yield connection


# A session ends to the second.


def test_a_session_is_unreadable_from_the_second_that_it_is_a_day_old(database: Database, account_id: UUID) -> None:
    with database.connection() as connection:
        signed_in(
            connection,
            account_id,
            {"new": "0", "nearly": "23:59:59", "old": "24:00:01", "at the very second": "24:00:00"},
        )
        assert names(connection, "live_sessions") == {"new", "nearly"}
        assert len(names(connection, "sessions")) == 4


def test_a_session_ends_within_a_transaction_that_stays_open_and_however_often_it_is_read(
    database: Database, account_id: UUID
) -> None:
    with database.connection() as connection:
        signed_in(connection, account_id, {"about to end": "23:59:59.8"})
        assert names(connection, "live_sessions") == {"about to end"}
        connection.execute(text("SELECT pg_sleep(0.21)"))
        assert names(connection, "live_sessions") == set()


def test_a_cookie_reads_until_then_and_not_a_second_longer(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        nearly, over = (a_cookie(session, account_id, age) for age in ("23:59:59", "24:00:00"))
        assert web_session.read(session, nearly) is not None
        assert web_session.read(session, over) is None
        assert web_session.revoke(session, over) is False
        session.execute(text("SELECT pg_sleep(1)"))
        assert web_session.read(session, nearly) is None


def a_cookie(session: Any, account_id: UUID, age: str) -> str:
    """The cookie of a session that was made so long ago."""
    secret = b"s" * 32
    made: UUID = session.execute(
        text("""
            INSERT INTO tenure.sessions (id, account_id, secret_sha256)
            VALUES (uuidv7(- CAST(:age AS interval)), :account, sha256(:secret)) RETURNING id"""),
        {"account": account_id, "secret": secret, "age": age},
    ).scalar_one()
    return urlsafe_b64encode(made.bytes + secret).decode()


def test_the_database_says_when_a_session_was_made(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        before = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        signed = web_session.read(session, web_session.create(session, account="acme"))
        after = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert signed is not None
    assert before - timedelta(milliseconds=1) <= signed.created_at <= after


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ("uuidv7(interval '6 minutes')", "in the future"),
        ("uuidv7(interval '300 years')", "in the future"),
        ("gen_random_uuid()", "violates"),
        ("'00000000-0000-1000-8000-000000000000'", "ck_sessions_id"),
    ],
)
def test_an_id_of_another_clock_is_not_taken(database: Database, account_id: UUID, drawn: str, said: str) -> None:
    with pytest.raises(DBAPIError, match=said), database.connection() as connection:
        connection.execute(
            text(f"INSERT INTO tenure.sessions (id, account_id, secret_sha256) VALUES ({drawn}, :account, sha256(''))"),
            {"account": account_id},
        )


# What a web tier does.


def test_a_session_is_created_read_and_revoked(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        contact = a_contact(session, session.get_one(Account, account_id)).id
    with database.transaction() as session:
        cookie = web_session.create(session, account="acme", contact=contact, ip="2001:db8::1", user_agent="Ünïcode\0")
        other = web_session.create(session, account="acme")
    with database.transaction() as session:
        signed_in = web_session.read(session, cookie)
        assert signed_in is not None
        assert (signed_in.account_id, signed_in.contact_id) == (account_id, contact)
        row = session.execute(text("SELECT * FROM tenure.sessions WHERE id = :id"), {"id": signed_in.id}).one()
        assert (row.ip, row.user_agent) == ("2001:db8::1", "Ünïcode")
        assert web_session.revoke(session, cookie) is True
        assert web_session.revoke(session, cookie) is False
        assert web_session.read(session, cookie) is None
        assert web_session.read(session, other) is not None


def test_the_secret_is_nowhere_and_nothing_but_the_whole_of_it_reads(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        cookie, other = (web_session.create(session, account="acme") for _ in range(2))
        raw = urlsafe_b64decode(cookie)
        stored = str(session.execute(text("SELECT row_to_json(s)::text FROM tenure.sessions AS s")).all())
        assert raw[16:].hex() not in stored
        assert sha256(raw[16:]).hexdigest() in stored
        wrong = [
            raw[:16] + urlsafe_b64decode(other)[16:],
            raw[:16] + bytes(32),
            raw[:47],
            raw + b"x",
            uuid4().bytes + raw[16:],
        ]
        cookies = [urlsafe_b64encode(each).decode() for each in wrong]
        for each in [*cookies, "", "=", "é", cookie[:-1], cookie + "\n", "\0" * 64, "A" * 100_000]:
            assert web_session.read(session, each) is None
        assert web_session.read(session, cookie) is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"account": "nobody"}, "not known"),
        ({"account": "no\0body"}, "not known"),
        ({"account": "frozen"}, "frozen"),
        ({"account": "acme", "contact": UUID(int=7)}, "none of this account"),
    ],
)
def test_a_session_that_cannot_be_is_refused_in_a_sentence(
    database: Database, account_id: UUID, asked: dict[str, Any], said: str
) -> None:
    with database.transaction() as session:
        an_account(session, ref="frozen", status="frozen")
        with pytest.raises(SessionRefused, match=said):
            web_session.create(session, **asked)
        # The caller's transaction stays usable.
        assert web_session.read(session, web_session.create(session, account="acme")) is not None
    assert left(database) == 1


def test_a_web_tier_needs_no_right_on_any_table(database: Database, account_id: UUID) -> None:
    with a_role(database) as role:
        with database.connection() as connection:
            for each in rights.statements(connection, worker=None, web=role):
                connection.execute(text(each))
        with database.transaction() as session:
            session.execute(text(f"SET LOCAL ROLE {role}"))
            cookie = web_session.create(session, account="acme")
            assert web_session.read(session, cookie) is not None
            assert web_session.revoke(session, cookie)
        with pytest.raises(DBAPIError, match="permission denied"), database.connection() as connection:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            connection.execute(text("SELECT 1 FROM tenure.sessions"))


@contextmanager
def a_role(database: Database, *rights: str) -> Iterator[str]:
    """Somebody who owns nothing."""
    role = f"role_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'worker'"))
        connection.execute(text(f"GRANT {role} TO CURRENT_USER"))
        for right in ("USAGE ON SCHEMA tenure", *rights):
            connection.execute(text(f"GRANT {right} TO {role}"))
    try:
        yield role
    finally:
        with database.connection() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


def test_a_look_up_reads_one_partition(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        web_session.create(session, account="acme")
        plan = "\n".join(
            session.scalars(
                text("EXPLAIN (COSTS off) SELECT * FROM tenure.live_sessions WHERE id = :id"),
                {"id": session.execute(text("SELECT id FROM tenure.sessions")).scalar_one()},
            )
        )
    assert plan.count("Scan") == 1


# A frozen account (S6).


def test_freezing_an_account_ends_its_sessions_at_once(database: Database, account_id: UUID) -> None:
    with database.transaction() as session:
        other = an_account(session, ref="other").id
        signed_in(session, account_id, {"mine": "0", "mine too": "23 hours"})
        signed_in(session, other, {"theirs": "0"})
        session.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id"), {"id": account_id})
        assert names(session, "sessions") == {"theirs"}


def test_no_session_slips_in_beside_a_freeze(database: Database, account_id: UUID) -> None:
    """Log-ins that run while the account is frozen are ended or refused; one of both, every time."""
    start = Barrier(5)
    refused = count()

    def log_in() -> None:
        start.wait(timeout=deadline(30))
        for _ in range(20):
            try:
                with database.transaction() as session:
                    web_session.create(session, account="acme")
            except SessionRefused:
                next(refused)

    def freeze() -> None:
        start.wait(timeout=deadline(30))
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id"), {"id": account_id})

    threads = [Thread(target=log_in) for _ in range(4)] + [Thread(target=freeze)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=deadline(60))
    assert left(database) == 0
    assert next(refused) > 0


def test_revoking_ends_the_sessions_of_one_account_of_any_age(
    database: Database, ports: Ports, account_id: UUID
) -> None:
    with database.transaction() as session:
        other = an_account(session).id
        signed_in(session, account_id, {"mine": "0", "mine too": "25 hours"})
        signed_in(session, other, {"theirs": "0"})
    with database.transaction() as session:
        sweep.revoke(session, account_id, UUID(int=1), ports)
    with database.connection() as connection:
        assert names(connection, "sessions") == {"theirs"}


# The sweep, by partitions.


def test_partitions_are_made_ahead_and_sessions_go_into_them(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    without_partitions(database)
    sweep.sweep(ports)
    with database.connection() as connection:
        since, until = connection.execute(text("SELECT min(since), max(until) FROM tenure.session_partitions")).one()
        now = connection.execute(text("SELECT now()")).scalar_one()
    assert since <= now
    assert timedelta(hours=2) < until - now < timedelta(hours=4)
    many(database, account_id, 3, "0")
    assert partitions(database).get("sessions_default", 0) == 0
    before = partitions(database)
    sweep.sweep(ports)
    assert partitions(database) == before


def test_a_session_that_has_just_begun_is_one_that_is_left(database: Database, account_id: UUID, ports: Ports) -> None:
    many(database, account_id, 1, "0")
    assert sweep.sweep(ports)["oldest_seconds"] >= 1


def test_a_partition_of_which_all_is_over_is_emptied_and_dropped(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    over, nearly = partition(database, "25 hours"), partition(database, "23 hours 59 minutes")
    many(database, account_id, 5, "25 hours")
    many(database, account_id, 3, "23 hours 59 minutes")
    many(database, account_id, 2, "0")
    told = sweep.sweep(ports)
    assert told["tenure"] == 5
    assert 86_300 < told["oldest_seconds"] < 86_400
    held = partitions(database)
    assert over not in held
    assert held[nearly] == 3
    assert sweep.sweep(ports)["tenure"] == 0


def test_three_days_without_a_sweep_are_put_right_by_one(database: Database, account_id: UUID, ports: Ports) -> None:
    without_partitions(database)
    # Writes go on all the time.
    for hours in range(0, 75, 3):
        many(database, account_id, 2, f"{hours} hours")
    with database.transaction() as session:
        cookie = web_session.create(session, account="acme")
    assert partitions(database) == {"sessions_default": 51}

    assert sweep.sweep(ports)["tenure"] == 34
    assert left(database) == 17
    with database.transaction() as session:
        assert web_session.read(session, cookie) is not None
        until, now = session.execute(text("SELECT max(until), now() FROM tenure.session_partitions")).one()
    # Those who live stay until they are over; by then none of the default partition is needed any more.
    assert until - now > timedelta(hours=24)
    before = partitions(database)
    assert sweep.sweep(ports)["tenure"] == 0
    assert partitions(database) == before
    with database.connection() as connection:
        next_one = connection.execute(text("SELECT min(since) - now() FROM tenure.session_partitions")).scalar_one()
        assert next_one <= timedelta(minutes=45)
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (id, account_id, secret_sha256)
                SELECT tenure.session_id_at(now() + interval '4 minutes'), :account, sha256('')"""),
            {"account": account_id},
        )


def test_the_default_partition_is_swept_in_batches_oldest_first(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    many(database, account_id, 25, "25 hours")
    many(database, account_id, 10, "30 hours")
    looked: list[int] = []

    def stopping() -> bool:
        looked.append(left(database))
        return False

    own = sweep.OwnSessions(database, batch=10)
    assert own.sweep(stopping).gone == 35
    # Committed one by one: another connection saw each.
    assert {35, 25, 15, 5} <= set(looked)
    many(database, account_id, 3, "25 hours")
    many(database, account_id, 3, "99 hours")
    stop = iter([False, True, True])
    swept = sweep.OwnSessions(database, batch=3).sweep(stop.__next__)
    assert (swept.gone, swept.finished) == (3, False)
    oldest = sweep.OwnSessions(database).left().oldest_at
    assert oldest is not None
    assert datetime.now(UTC) - oldest < timedelta(hours=26)


def test_a_sweep_that_is_broken_off_keeps_what_it_did_and_the_next_goes_on(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    for age in ("25 hours", "27 hours", "29 hours"):
        partition(database, age)
        many(database, account_id, 10, age)
    stop = iter([False, True])
    told = sweep.sweep(replace(ports, stopping=lambda: next(stop, True)))
    assert (told["tenure"], told["unfinished"]) == (10, 1)
    assert left(database) == 20
    assert sweep.sweep(ports)["tenure"] == 20
    with database.connection() as connection:
        assert connection.execute(text("SELECT swept FROM tenure.session_sweeps")).scalar_one() == 30


def test_two_sweeps_at_once_share_the_work_and_count_each_session_once(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    without_partitions(database)
    for hours in range(25, 45, 2):
        partition(database, f"{hours} hours")
        many(database, account_id, 50, f"{hours} hours")
    many(database, account_id, 300, "80 hours")
    many(database, account_id, 5, "1 hour")
    start = Barrier(3)
    swept: list[int] = []

    def race() -> None:
        start.wait(timeout=deadline(30))
        swept.append(sweep.sweep(ports)["tenure"])

    threads = [Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=deadline(60))
    assert len(swept) == 3
    assert sum(swept) + sweep.sweep(ports)["tenure"] == 800
    assert left(database) == 5


# The sweep is in nobody's way (S4).


def test_log_ins_go_on_beside_a_sweep_and_beside_open_transactions(
    database: Database, database_url: str, account_id: UUID, ports: Ports
) -> None:
    """A web request that looked up its session holds the table until it ends; nothing waits for it, either way."""
    over = partition(database, "25 hours")
    many(database, account_id, 5, "25 hours")
    with a_reader(database_url, "SELECT 1 FROM tenure.live_sessions WHERE id = uuidv7()") as reader:
        with database.transaction() as session:
            cookie = web_session.create(session, account="acme")
            assert sweep.sweep(ports)["tenure"] == 5
            assert web_session.read(session, cookie) is not None
        # Emptied at once; dropped when nobody holds the table.
        assert partitions(database)[over] == 0
        reader.rollback()
    sweep.sweep(ports)
    assert over not in partitions(database)


def test_a_sweep_by_the_clock_rests_between_partitions_and_one_by_hand_does_not(
    database: Database, account_id: UUID, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(sweep, "sleep", rests.append)
    for budget, expected in ((None, {0.0}), (timedelta(seconds=30), {sweep.REST})):
        for age in ("25 hours", "27 hours"):
            partition(database, age)
            many(database, account_id, 3, age)
        rests.clear()
        assert sweep.sweep(ports, budget=budget)["tenure"] == 6
        assert set(rests) == expected
        # After each that was emptied and each that was dropped; a sweep that finds nothing does not rest.
        assert len(rests) == 4
    rests.clear()
    sweep.sweep(ports, budget=timedelta(seconds=30))
    assert rests == []


def test_what_a_backup_reads_is_left_to_the_next_sweep_until_it_presses(
    database: Database, database_url: str, account_id: UUID, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "PRESSING", timedelta(hours=27))
    partition(database, "26 hours")
    partition(database, "29 hours")
    many(database, account_id, 5, "26 hours")
    many(database, account_id, 7, "29 hours")
    with a_reader(database_url, "SELECT count(*) FROM tenure.sessions"):
        assert sweep.sweep(ports)["tenure"] == 7
        assert left(database) == 5
    assert sweep.sweep(ports)["tenure"] == 5


def test_the_sweep_passes_over_a_session_that_somebody_is_ending(
    database: Database, account_id: UUID, ports: Ports
) -> None:
    many(database, account_id, 5, "50 hours")
    with database.connection() as connection:
        connection.execute(text("DELETE FROM tenure.sessions WHERE id = (SELECT id FROM tenure.sessions LIMIT 1)"))
        assert sweep.sweep(ports)["tenure"] == 4
        connection.rollback()
    assert sweep.sweep(ports)["tenure"] == 1


def test_a_partition_that_holds_anything_is_neither_dropped_nor_ended_early(
    database: Database, account_id: UUID
) -> None:
    """Whoever calls the functions: they go by the database's clock."""
    over, live = partition(database, "25 hours"), partition(database, "20 hours")
    many(database, account_id, 1, "25 hours")
    many(database, account_id, 1, "20 hours")
    many(database, account_id, 1, "10 hours")
    for name in (over, live, "sessions_default", "accounts", "no such thing"):
        with database.connection() as connection:
            assert (
                connection.execute(text("SELECT tenure.drop_session_partition(:name)"), {"name": name}).scalar_one()
                is False
            )
            if name != over:
                assert (
                    connection.execute(
                        text("SELECT tenure.empty_session_partition(:name)"), {"name": name}
                    ).scalar_one()
                    == 0
                )
                assert (
                    connection.execute(
                        text("SELECT gone FROM tenure.delete_ended_sessions(:name, 9, uuidv7(interval '-9 days'))"),
                        {"name": name},
                    ).scalar_one()
                    == 0
                )
    assert left(database) == 3


def test_a_worker_that_owns_no_table_sweeps(database: Database, database_url: str, account_id: UUID) -> None:
    """The functions run with their owner's rights; so do the partitions that they make."""
    without_partitions(database)
    partition(database, "25 hours")
    many(database, account_id, 3, "25 hours")
    many(database, account_id, 2, "50 hours")
    with a_role(
        database,
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tenure",
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA tenure",
    ) as role:
        worker = Database(re.sub(r"//[^@]*@", f"//{role}:worker@", database_url))
        assert sweep.OwnSessions(worker).sweep(lambda: False).gone == 5
        worker.engine.dispose()
    assert len(partitions(database)) >= 4
