"""Servers that refuse, for a while, in the middle of work (W18). What they do when they die is in tests/acceptance."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.processes import Processes, eventually, throughout

COUNT = 60


@pytest.fixture
def at_work(processes: Processes, database: Database) -> Processes:
    """Relay, Beat and a worker with statements to make."""
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    processes.worker(lease_seconds=10)
    return processes


def in_the_middle(outcome: Outcome) -> None:
    eventually(lambda: outcome.statements_done() > 0, "the first statements are done")


def passing(seconds: float) -> None:
    throughout(lambda: True, "", seconds=seconds)


@pytest.mark.timeout(150)
def test_a_broker_that_is_full(at_work: Processes, outcome: Outcome, broker: redis.Redis, database: Database) -> None:
    """With noeviction it refuses every write; nothing may be thrown away, and work goes on when there is room."""
    in_the_middle(outcome)
    broker.config_set("maxmemory", 1)
    try:
        customers(database, COUNT, prefix="voll-")
        passing(4)
    finally:
        broker.config_set("maxmemory", 0)
    at_work.beat("another beat")
    outcome.await_statements(2 * COUNT)
    outcome.is_whole(2 * COUNT)


@pytest.mark.timeout(150)
def test_connections_that_are_cut_again_and_again(at_work: Processes, outcome: Outcome, database_url: str) -> None:
    in_the_middle(outcome)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(5):
            connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()""")
            passing(0.7)
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT, may_be_unknown=True)


@pytest.mark.timeout(150)
def test_a_database_with_no_connection_left(at_work: Processes, outcome: Outcome, database_url: str) -> None:
    in_the_middle(outcome)
    name = database_url.rpartition("/")[2]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
        try:
            connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()""")
            passing(4)
        finally:
            connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT, may_be_unknown=True)


def refusing(database: Database, sqlstate: str) -> None:
    """Make PostgreSQL answer every third transaction that records a statement with this error, six times."""
    with database.connection() as connection:
        connection.execute(text("CREATE SEQUENCE public.refused"))
        connection.execute(
            text(f"""
                CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                DECLARE visit bigint := nextval('public.refused');
                BEGIN
                    IF visit % 3 = 1 AND visit < 18 THEN
                        RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}';
                    END IF;
                    RETURN NULL;
                END $$""")
        )
        connection.execute(
            text("""
                CREATE TRIGGER refuse AFTER INSERT ON tenure.email_messages
                    FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()""")
        )


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("what", "sqlstate"), [("deadlock", "40P01"), ("serialization failure", "40001")])
def test_transactions_that_postgresql_gives_up(
    what: str, sqlstate: str, database: Database, processes: Processes, outcome: Outcome
) -> None:
    refusing(database, sqlstate)
    customers(database, COUNT)
    processes.relay()
    processes.beat()
    processes.worker()
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)
    assert outcome.one("SELECT last_value FROM public.refused") >= 6, f"no {what} was met"


@pytest.mark.timeout(150)
def test_every_message_five_times_and_in_reverse(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    """The messages that Beat, relay and a client published with no worker there, copied and turned round."""
    customers(database, COUNT)
    relay, beat = processes.relay(), processes.beat()
    queues: Callable[[], list[str]] = lambda: [  # noqa: E731
        key.decode() for key in broker.keys("*") if broker.type(key) == b"list"
    ]
    eventually(lambda: len(queues()) >= 5, "messages wait in their queues")
    for process in (relay, beat):
        process.kill()
    for queue in queues():
        waiting = broker.lrange(queue, 0, -1)
        broker.delete(queue)
        broker.rpush(queue, *(reversed(waiting * 5)))
    processes.worker()
    processes.relay("relay again")
    outcome.await_statements(COUNT)
    outcome.is_whole(COUNT)
