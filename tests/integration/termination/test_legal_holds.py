"""A legal hold and whoever deletes never miss each other (S6, T22)."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.time.deadlines import deadline

FREE = text("SELECT tenure.free_to_delete(:account)")
AWAIT = text("SELECT tenure.await_holds()")
IN_FORCE = text("SELECT count(*) FROM tenure.legal_holds WHERE released_at IS NULL")


@pytest.fixture
def acme(database: Database) -> UUID:
    with database.transaction() as session:
        return an_account(session, ref="acme").id


def place(connection: Any, ref: str = "acme", reference: str = "AZ 7/26") -> UUID:
    made: UUID = connection.execute(
        text("SELECT tenure.place_hold(:ref, :reference, 'preservation request', 'counsel')"),
        {"ref": ref, "reference": reference},
    ).scalar_one()
    return made


def release(connection: Any, hold: UUID) -> bool:
    return bool(connection.execute(text("SELECT tenure.release_hold(:hold, 'counsel')"), {"hold": hold}).scalar_one())


def held(connection: Any, account: UUID) -> bool:
    return bool(connection.execute(text("SELECT tenure.is_held(:account)"), {"account": account}).scalar_one())


def beside(work: Callable[[], None]) -> Thread:
    """Begin something that will have to wait."""
    thread = Thread(target=work)
    thread.start()
    return thread


def someone_waits(database: Database) -> bool:
    """Whether before long somebody waits for a lock."""
    ends = monotonic() + deadline(10)
    while monotonic() < ends:
        with database.connection() as connection:
            waiting = connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()
        if waiting:
            return True
        sleep(0.02)
    return False


def test_a_hold_is_placed_once_a_case_and_released_once(database: Database, acme: UUID) -> None:
    with database.connection() as connection:
        assert not held(connection, acme)
        hold = place(connection)
        assert place(connection, reference=" AZ 7/26 ") == hold
        other = place(connection, reference="AZ 8/26")
        assert release(connection, hold)
        assert not release(connection, hold)
        assert held(connection, acme)
        assert release(connection, other)
        assert not held(connection, acme)
        # The same case comes up again: another hold, and the first one stays as it was.
        assert place(connection) != hold
        assert held(connection, acme)
        assert connection.execute(text("SELECT count(*) FROM tenure.legal_holds")).scalar_one() == 3


@pytest.mark.parametrize("status", ["active", "frozen"])
def test_a_frozen_account_can_be_held_and_a_purged_one_cannot(database: Database, status: str) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="leaving", status=status).id
        gone = an_account(session, ref="gone").id
        session.execute(
            text("UPDATE tenure.accounts SET ref = tenure.purged_ref(ref), status = 'purged' WHERE id = :gone"),
            {"gone": gone},
        )
    with database.connection() as connection:
        place(connection, "leaving")
        assert held(connection, account)
    with pytest.raises(DBAPIError, match="is purged: nothing is left"), database.connection() as connection:
        place(connection, "gone")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT tenure.place_hold('nobody', 'AZ', 'why', 'counsel')", "not known"),
        ("SELECT tenure.place_hold('acme', ' ', 'why', 'counsel')", "a reference, a reason and somebody"),
        ("SELECT tenure.place_hold('acme', 'AZ', NULL, 'counsel')", "a reference, a reason and somebody"),
        ("SELECT tenure.place_hold('acme', repeat('A', 201), 'why', 'counsel')", "ck_legal_holds_reference"),
        ("SELECT tenure.release_hold(uuidv7(), 'counsel')", "there is no hold"),
        ("SELECT tenure.release_hold(id, '') FROM tenure.legal_holds", "released by somebody"),
        ("DELETE FROM tenure.legal_holds", "cannot be deleted"),
        ("UPDATE tenure.legal_holds SET reason = 'another'", "cannot be changed"),
        ("UPDATE tenure.legal_holds SET released_at = now()", "ck_legal_holds_released"),
        ("SELECT tenure.free_to_delete(NULL)", "there is no account NULL"),
        ("SELECT tenure.free_to_delete(uuidv7())", "there is no account"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(database: Database, acme: UUID, statement: str, said: str) -> None:
    with database.connection() as connection:
        hold = place(connection)
    with pytest.raises(DBAPIError, match=said), database.connection() as connection:
        connection.execute(text(statement))
    with database.connection() as connection:
        assert held(connection, acme)
        assert release(connection, hold)
    with pytest.raises(DBAPIError, match="cannot be changed"), database.connection() as connection:
        connection.execute(text("UPDATE tenure.legal_holds SET released_by = NULL, released_at = NULL"))


def test_a_hold_waits_for_a_batch_that_deletes_and_the_next_batch_sees_it(database: Database, acme: UUID) -> None:
    def hold() -> None:
        with database.connection() as connection:
            place(connection)

    with database.connection() as batch:
        assert batch.execute(FREE, {"account": acme}).scalar_one() is True
        thread = beside(hold)
        assert someone_waits(database)
        assert not held(batch, acme)
    thread.join(timeout=deadline(30))
    with database.connection() as batch:
        assert batch.execute(FREE, {"account": acme}).scalar_one() is False


def test_a_batch_that_waited_for_a_hold_sees_it(database: Database, acme: UUID) -> None:
    """The question began before the hold was there, and is answered after."""
    told: list[bool] = []

    def ask() -> None:
        with database.connection() as connection:
            connection.execute(text("SELECT 1"))
            told.append(connection.execute(FREE, {"account": acme}).scalar_one())

    with database.connection() as connection:
        place(connection)
        thread = beside(ask)
        assert someone_waits(database)
    thread.join(timeout=deadline(30))
    assert told == [False]


def test_a_sweep_and_a_hold_are_put_in_order_too(database: Database, acme: UUID) -> None:
    seen: list[int] = []

    def sweep() -> None:
        with database.connection() as connection:
            connection.execute(AWAIT)
            seen.append(connection.execute(IN_FORCE).scalar_one())

    def hold() -> None:
        with database.connection() as connection:
            place(connection)

    with database.connection() as connection, database.connection() as another:
        connection.execute(AWAIT)
        another.execute(AWAIT)  # sweeps do not wait for each other
        thread = beside(hold)
        assert someone_waits(database)
        assert connection.execute(IN_FORCE).scalar_one() == 0
    thread.join(timeout=deadline(30))
    with database.connection() as connection:
        place(connection, reference="AZ 8/26")
        thread = beside(sweep)
        assert someone_waits(database)
    thread.join(timeout=deadline(30))
    assert seen == [2]


@pytest.mark.parametrize("question", ["tenure.free_to_delete(:account)", "tenure.await_holds()"])
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_would_not_see_a_hold_is_refused(
    database: Database, acme: UUID, question: str, level: str
) -> None:
    asked = text(f"SELECT {question}" + ("" if ":account" in question else ", :account"))
    with pytest.raises(DBAPIError, match="READ COMMITTED"), database.connection() as connection:
        connection.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        connection.execute(asked, {"account": acme})


def test_nobody_who_logs_in_or_writes_waits_for_a_batch(database: Database, acme: UUID) -> None:
    with database.connection() as batch:
        batch.execute(FREE, {"account": acme})
        batch.execute(AWAIT)
        with database.transaction() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            account = session.execute(text("SELECT * FROM tenure.accounts WHERE ref = 'acme'")).one()
            a_contact(session, account)  # type: ignore[arg-type]
            an_entry(session, account, 100)  # type: ignore[arg-type]
            session.execute(text("SELECT tenure.create_session('acme', sha256('x'))"))


def test_a_worker_that_owns_nothing_may_ask(database: Database, acme: UUID) -> None:
    role = f"role_{uuid4().hex[:8]}"

    def as_owner(*statements: str) -> None:
        with database.connection() as connection:
            for each in statements:
                connection.execute(text(each))

    as_owner(
        f"CREATE ROLE {role}",
        f"GRANT {role} TO CURRENT_USER",
        f"GRANT USAGE ON SCHEMA tenure TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tenure TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tenure TO {role}",
    )

    def as_worker(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL ROLE {role}"))

    try:
        with database.connection() as connection:
            as_worker(connection)
            assert connection.execute(FREE, {"account": acme}).scalar_one() is True
            connection.execute(AWAIT)
            hold = place(connection)
            assert held(connection, acme)
            assert release(connection, hold)
    finally:
        as_owner(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
