"""Sessions of an account under legal hold: over for everybody, and still there (S6)."""

from __future__ import annotations

from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.base import Base
from models.base.unit_of_work import Database
from models.customers.account import Account
from models.data_map.map import AccountKeys, belongs, own_map, relation, written_out
from tasks.client import sessions as web_session
from tasks.ports.context import Ports
from tasks.sessions import sweep as sessions
from tests.integration.sessions.test_sweep import a_cookie, a_reader, a_role, many, names, partition, signed_in
from tests.integration.termination.test_legal_holds import beside, place, release, someone_waits
from tests.support.rows.company import a_contact, an_account
from tests.support.time.deadlines import deadline

FREEZE = text("UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id")


@pytest.fixture
def acme(database: Database) -> UUID:
    """An account under hold; `free` is another, under none."""
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        an_account(session, ref="free")
        place(session)
    return account.id


def kept(database: Database) -> list[str]:
    with database.connection() as connection:
        return sorted(connection.scalars(text("SELECT user_agent FROM tenure.held_sessions")))


def other(database: Database) -> UUID:
    with database.connection() as connection:
        found: UUID = connection.execute(text("SELECT id FROM tenure.accounts WHERE ref = 'free'")).scalar_one()
    return found


def test_what_the_sweep_empties_is_brought_to_safety_before(database: Database, ports: Ports, acme: UUID) -> None:
    over = partition(database, "25 hours")
    with database.connection() as connection:
        signed_in(connection, acme, {"swept": "25 hours", "swept row by row": "30 hours", "read": "1 hour"})
        signed_in(connection, other(database), {"gone": "25 hours", "gone too": "30 hours", "theirs": "1 hour"})
    assert sessions.sweep(ports)["tenure"] == 4
    assert kept(database) == ["swept", "swept row by row"]
    with database.connection() as connection:
        assert names(connection, "sessions") == {"read", "theirs"}
        assert over not in connection.scalars(text("SELECT name FROM tenure.session_partitions")).all()
    # Again, and nothing goes that is held.
    assert sessions.sweep(ports)["tenure"] == 0
    assert len(kept(database)) == 2


def test_a_partition_that_is_read_for_long_is_emptied_row_by_row_with_the_same_care(
    database: Database, database_url: str, ports: Ports, acme: UUID
) -> None:
    name = partition(database, "26 hours")
    with database.connection() as connection:
        signed_in(connection, acme, {"held": "26 hours"})
        signed_in(connection, other(database), {"gone": "26 hours"})
    with a_reader(database_url, f"SELECT count(*) FROM tenure.{name}"):
        assert sessions.sweep(ports)["tenure"] == 2
    assert kept(database) == ["held"]


@pytest.mark.parametrize("way", ["freeze", "log out", "revoke all"])
def test_a_session_that_is_ended_cannot_be_read_and_is_kept(
    database: Database, ports: Ports, acme: UUID, way: str
) -> None:
    with database.transaction() as session:
        contact = a_contact(session, session.get_one(Account, acme)).id
        cookie = web_session.create(session, account="acme", contact=contact, ip="192.0.2.7", user_agent="browser")
        made = web_session.read(session, cookie)
        assert made is not None
    with database.transaction() as session:
        if way == "freeze":
            session.execute(FREEZE, {"id": acme})
        elif way == "log out":
            assert web_session.revoke(session, cookie)
        else:
            sessions.revoke(session, acme, UUID(int=1), ports)
        assert web_session.read(session, cookie) is None
        assert session.execute(text("SELECT count(*) FROM tenure.sessions")).scalar_one() == 0
    with database.connection() as connection:
        row = connection.execute(text("SELECT * FROM tenure.held_sessions")).one()
    assert (row.id, row.account_id, row.contact_id, row.created_at) == (made.id, acme, contact, made.created_at)
    assert (row.ip, row.user_agent) == ("192.0.2.7", "browser")
    # Of the secret nothing is kept: who has the cookie has nothing.
    assert not any(isinstance(value, bytes | memoryview) for value in row)


def test_what_is_under_no_hold_leaves_nothing(database: Database, ports: Ports, acme: UUID) -> None:
    free = other(database)
    with database.transaction() as session:
        cookies = [a_cookie(session, free, "1 hour") for _ in range(3)]
        assert web_session.revoke(session, cookies[0])
        sessions.revoke(session, free, UUID(int=1), ports)
        session.execute(FREEZE, {"id": free})
    assert kept(database) == []


def test_a_released_hold_lets_the_next_sweep_delete_in_batches(database: Database, ports: Ports, acme: UUID) -> None:
    with database.connection() as connection:
        second = place(connection, reference="AZ 8/26")
        first = connection.execute(text("SELECT id FROM tenure.legal_holds WHERE reference = 'AZ 7/26'")).scalar_one()
        other_hold = place(connection, "free")
    many(database, acme, 25, "25 hours")
    many(database, other(database), 2, "25 hours")
    own = sessions.OwnSessions(database, batch=10)
    own.sweep(lambda: False)
    for hold, left in ((first, 27), (second, 2), (other_hold, 0)):
        with database.connection() as connection:
            release(connection, hold)
        own.sweep(lambda: False)
        with database.connection() as connection:
            assert connection.execute(text("SELECT count(*) FROM tenure.held_sessions")).scalar_one() == left


def test_what_a_termination_has_exported_is_left_to_its_purge(database: Database, ports: Ports, acme: UUID) -> None:
    """The purge has to find the rows that the record holds (T11)."""
    with database.connection() as connection:
        signed_in(connection, acme, {"held": "1 hour"})
        connection.execute(
            text("""
                INSERT INTO tenure.terminations (account_id, requested_by, ends_at, cancel_until)
                VALUES (:account, 'sql', now(), now())"""),
            {"account": acme},
        )
        connection.execute(FREEZE, {"id": acme})
        connection.execute(text("SELECT tenure.release_hold(id, 'counsel') FROM tenure.legal_holds"))
    sessions.sweep(ports)
    assert kept(database) == ["held"]
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.terminations SET stage = 'cancelled'"))
    sessions.sweep(ports)
    assert kept(database) == []


def test_a_hold_that_is_placed_while_the_sweep_is_at_it_comes_before_or_after(
    database: Database, database_url: str, acme: UUID
) -> None:
    """Placed first, and not committed yet: the partition is not emptied without it."""
    name, free = partition(database, "25 hours"), other(database)
    with database.connection() as connection:
        signed_in(connection, free, {"late": "25 hours"})

    def sweep() -> None:
        with database.connection() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT tenure.empty_session_partition(:name)"), {"name": name})

    with database.connection() as placing:
        place(placing, "free")
        # Not waited for longer than a moment: log-ins would wait behind the sweep.
        with pytest.raises(DBAPIError, match="lock timeout"):
            sweep()
    sweep()
    assert kept(database) == ["late"]


def test_a_freeze_and_a_hold_at_once(database: Database, acme: UUID) -> None:
    """Whoever comes first, what the freeze ends after the hold is kept."""
    free = other(database)
    with database.connection() as connection:
        signed_in(connection, free, {"theirs": "1 hour"})

    def freeze() -> None:
        with database.connection() as connection:
            connection.execute(FREEZE, {"id": free})

    with database.connection() as placing:
        place(placing, "free")
        thread: Thread = beside(freeze)
        assert someone_waits(database)
    thread.join(timeout=deadline(30))
    assert kept(database) == ["theirs"]


def test_held_sessions_are_in_the_record_and_go_with_the_purge(database: Database, ports: Ports, acme: UUID) -> None:
    many(database, acme, 3, "25 hours")
    sessions.sweep(ports)
    (mapped,) = (each for each in own_map(Base).tables if each.name.table == "held_sessions")
    with database.connection() as connection:
        where = written_out(belongs(mapped, AccountKeys(acme, "acme")))
        table = relation(mapped.name)
        columns = ", ".join(mapped.exported)
        found: Any = connection.exec_driver_sql(f"SELECT {columns} FROM {table.fullname} WHERE {where}").all()
        assert len(found) == 3
        assert connection.exec_driver_sql(f"DELETE FROM {table.fullname} WHERE {where}").rowcount == 3


def test_a_worker_that_owns_no_table_keeps_what_is_held(database: Database, acme: UUID) -> None:
    with database.connection() as connection:
        signed_in(connection, acme, {"held": "25 hours", "revoked": "1 hour"})
    with a_role(database, "EXECUTE ON ALL FUNCTIONS IN SCHEMA tenure") as role, database.connection() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        connection.execute(
            text("SELECT tenure.delete_ended_sessions('sessions_default', 9, uuidv7(interval '-9 days'))")
        )
        connection.execute(text("SELECT tenure.delete_released_sessions(9)"))
        connection.execute(text("SELECT tenure.end_sessions(:account)"), {"account": acme})
    assert kept(database) == ["held", "revoked"]
