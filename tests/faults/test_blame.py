"""The server is away, this row cannot, not now: what each costs a row, and one row stops no others (W1, W2, W43)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.work.request import JobRequest
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow
from tasks.failures import Unavailable
from tasks.ports.context import Ports
from tests.integration.engine.test_drain import job, requests, rows

#: What may happen to the one row that is to blame: in PostgreSQL, by SQLSTATE, or at another server.
TROUBLES: dict[str, Callable[[ClaimedRow], object]] = {}


def trouble(act: Callable[[ClaimedRow], object]) -> Callable[[ClaimedRow], object]:
    TROUBLES[act.__name__] = act
    return act


@trouble
def statement_timeout(claimed: ClaimedRow) -> None:
    with claimed.ports.database.connection() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '20ms'"))
        connection.execute(text("SELECT pg_sleep(10)"))


@trouble
def cancelled(claimed: ClaimedRow) -> None:
    with claimed.ports.database.connection() as connection:
        connection.execute(text("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(10)"))


@trouble
def temp_file_limit(claimed: ClaimedRow) -> None:
    with claimed.ports.database.connection() as connection:
        raised(connection, "53400")


@trouble
def out_of_memory(claimed: ClaimedRow) -> None:
    with claimed.ports.database.connection() as connection:
        raised(connection, "53200")


@trouble
def disk_full(claimed: ClaimedRow) -> None:
    with claimed.ports.database.connection() as connection:
        raised(connection, "53100")


@trouble
def another_server_refuses_this_row(_claimed: ClaimedRow) -> None:
    raise Unavailable("The mail server is closing its door (421).")


def raised(connection: object, sqlstate: str) -> None:
    connection.execute(text(f"DO $$ BEGIN RAISE 'made up' USING ERRCODE = '{sqlstate}'; END $$"))  # type: ignore[attr-defined]


def time_goes_by(database: Database) -> None:
    """Longer than any row waits here; their order stays."""
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.job_requests SET due_at = due_at - interval '15 min' WHERE state = 'pending'")
        )


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.parametrize("to_blame", [1, 3])
def test_rows_that_meet_it_while_others_do_not_fail_at_last_and_stop_nobody(
    database: Database, ports: Ports, name: str, to_blame: int
) -> None:
    """They are the oldest, and side by side. Work goes on coming; all of it is done."""
    guilty = requests(database, to_blame)
    innocent: list[UUID] = []

    def act(item: UUID, claimed: ClaimedRow) -> str:
        if item in guilty:
            TROUBLES[name](claimed)
        return "done"

    for _ in range(40):
        innocent += requests(database, 2)
        for _ in range(3):
            drain(job(act), ports)
            time_goes_by(database)
        found = rows(database)
        if all(found[key].state == "failed" for key in guilty):
            break
    assert {found[key].state for key in innocent} == {"done"}
    assert [(found[key].state, found[key].attempts) for key in guilty] == [
        ("failed", JobRequest.max_attempts)
    ] * to_blame
    assert all(found[key].last_error for key in guilty)
    assert [found[key].attempts for key in innocent] == [1] * len(innocent)


@pytest.mark.parametrize("name", TROUBLES)
def test_what_all_meet_is_no_rows_fault(database: Database, ports: Ports, name: str) -> None:
    ids = requests(database, 6)
    for _ in range(12):
        drain(job(lambda _item, held: str(TROUBLES[name](held))), ports)
        time_goes_by(database)
    found = rows(database)
    assert [(found[key].state, found[key].attempts, found[key].crashes) for key in ids] == [("pending", 0, 0)] * 6
    drain(job(), ports)
    assert {rows(database)[key].state for key in ids} == {"done"}


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
def test_another_transaction_in_the_way_is_no_bug_and_is_tried_later(
    database: Database, ports: Ports, sqlstate: str
) -> None:
    (key,) = requests(database, 1)

    def act(_item: UUID, claimed: ClaimedRow) -> str:
        with claimed.ports.database.connection() as connection:
            raised(connection, sqlstate)
        return "done"

    assert drain(job(act), ports) == {"done": 0, "retried": 1}
    assert rows(database)[key].last_error == f"Another transaction was in the way (SQLSTATE {sqlstate})."
