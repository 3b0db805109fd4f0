"""The work row: claim, finish, fail, release, renew and rescue over real tables and connections (W1, W2, W4)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.billing.letterhead import Letterhead
from models.billing.statement import Statement
from models.customers.account import StatementForm
from models.mail.email_message import EmailMessage
from models.work import row as work
from models.work.request import JobRequest
from models.work.row import Claim, Work
from tests.support.rows.company import a_contact, an_account
from tests.support.time.deadlines import deadline
from workers.celery.identity import dead, host, identity, started

LEASE = timedelta(seconds=60)
#: A lease that has run out when it is given.
RUN_OUT = timedelta(seconds=-1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def requests(session: Session, count: int) -> list[UUID]:
    return list(
        session.scalars(
            insert(JobRequest).returning(JobRequest.id, sort_by_parameter_order=True),
            [
                {"kind": "statements.send", "args": {}, "due_at": LONG_AGO + timedelta(seconds=number)}
                for number in range(count)
            ],
        )
    )


def statements(session: Session, count: int) -> list[UUID]:
    account = an_account(session)
    letterhead = uuid4().bytes * 2
    session.add(Letterhead(sha256=letterhead, content={}))
    session.flush()
    ageing = ("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90", "unapplied_credit")
    return list(
        session.scalars(
            insert(Statement).returning(Statement.id, sort_by_parameter_order=True),
            [
                {
                    "account_id": account.id,
                    "currency": "EUR",
                    "period_start": date(2000, 1, 1) + timedelta(days=number),
                    "period_end": date(2000, 1, 2) + timedelta(days=number),
                    "opens_at": LONG_AGO,
                    "closes_at": LONG_AGO,
                    "opening_cutoff": 0,
                    "cutoff": 0,
                    "opening": 0,
                    "closing": 0,
                    "line_count": 0,
                    **dict.fromkeys(ageing, 0),
                    "form": StatementForm.BALANCE_FORWARD,
                    "account_ref": account.ref,
                    "account_name": account.name,
                    "address": [],
                    "time_zone": "UTC",
                    "letterhead": letterhead,
                    "due_at": LONG_AGO + timedelta(seconds=number),
                }
                for number in range(count)
            ],
        )
    )


def emails(session: Session, count: int, **values: Any) -> list[UUID]:
    account = an_account(session)
    contact = a_contact(session, account)
    return list(
        session.scalars(
            insert(EmailMessage).returning(EmailMessage.id, sort_by_parameter_order=True),
            [
                {
                    "account_id": account.id,
                    "contact_id": contact.id,
                    "message": "account-set-up",
                    "to_address": contact.email,
                    "context": {},
                    "dedupe_key": f"key-{uuid4()}",
                    "message_id": f"{uuid4()}@tenure.example",
                    "due_at": LONG_AGO + timedelta(seconds=number),
                    **values,
                }
                for number in range(count)
            ],
        )
    )


Make = Callable[[Session, int], list[UUID]]
TABLES: list[Any] = [
    pytest.param(JobRequest, requests, id="requests"),
    pytest.param(Statement, statements, id="statements"),
    pytest.param(EmailMessage, emails, id="emails"),
]


def made(database: Database, make: Make, count: int) -> list[UUID]:
    with database.transaction() as session:
        return make(session, count)


def claimed(database: Database, limit: int = 10, *, table: type[Work] = JobRequest, **values: Any) -> Claim:
    with database.connection() as connection:
        return work.claim(connection, table, limit, **{"worker": "host|1|1", "lease": LEASE, **values})


def row(database: Database, key: UUID, table: type[Work] = JobRequest) -> Any:
    with database.connection() as connection:
        return connection.execute(
            text(f"SELECT *, now() AS now FROM tenure.{table.__tablename__} WHERE id = :id"), {"id": key}
        ).one()


def set_all(database: Database, changes: str, table: type[Work] = JobRequest, **values: Any) -> None:
    with database.connection() as connection:
        connection.execute(text(f"UPDATE tenure.{table.__tablename__} SET {changes}"), values)


def due_now(database: Database, table: type[Work] = JobRequest) -> None:
    set_all(database, "due_at = now() - interval '1 second'", table)


@pytest.mark.parametrize(("table", "make"), TABLES)
def test_a_claim_takes_the_oldest_rows_up_to_its_limit_and_says_who_holds_them(
    database: Database, table: type[Work], make: Make
) -> None:
    ids = made(database, make, 7)
    first = claimed(database, 3, table=table, worker="host|7|7")
    assert list(first.ids) == ids[:3]
    taken = row(database, ids[0], table)
    assert (taken.state, taken.attempts, taken.crashes) == ("running", 1, 0)
    assert (taken.claim_token, taken.claimed_by) == (first.token, "host|7|7")
    assert timedelta(seconds=50) < taken.lease_until - taken.now <= LEASE
    assert list(claimed(database, 10, table=table).ids) == ids[3:]
    assert not claimed(database, 10, table=table)


def test_rows_that_are_due_at_the_same_instant_are_claimed_in_the_order_of_their_making(database: Database) -> None:
    ids = made(database, requests, 20)
    set_all(database, "due_at = '2020-01-01'")
    taken = [key for _ in range(5) for key in claimed(database, 4).ids]
    assert taken == sorted(ids)


def test_a_row_that_is_not_due_yet_is_not_claimed(database: Database) -> None:
    made(database, requests, 1)
    set_all(database, "due_at = now() + interval '1 minute'")
    assert not claimed(database)
    with database.connection() as connection:
        assert not work.is_due(connection, JobRequest)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_row_in_a_last_state_is_not_claimed(database: Database, state: str) -> None:
    made(database, requests, 1)
    set_all(database, f"state = '{state}'")
    assert not claimed(database)


@pytest.mark.parametrize(("table", "make"), TABLES)
def test_connections_that_claim_at_once_never_share_a_row(database: Database, table: type[Work], make: Make) -> None:
    ids = made(database, make, 200)
    start = Barrier(4)

    def take() -> list[UUID]:
        start.wait(timeout=deadline(30))
        taken: list[UUID] = []
        while more := claimed(database, 7, table=table).ids:
            taken += more
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = [
            key for future in [threads.submit(take) for _ in range(4)] for key in future.result(timeout=deadline(60))
        ]
    assert sorted(taken) == sorted(ids)
    with database.connection() as connection:
        attempts = connection.execute(text(f"SELECT DISTINCT attempts FROM tenure.{table.__tablename__}")).scalars()
        assert list(attempts) == [1]


def test_a_row_that_another_transaction_holds_is_passed_over_without_waiting(database: Database) -> None:
    ids = made(database, requests, 3)
    with database.connection() as open_transaction:
        assert len(work.claim(open_transaction, JobRequest, 1, worker="host|1|1", lease=LEASE).ids) == 1
        with database.connection() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert list(work.claim(second, JobRequest, 10, worker="host|2|2", lease=LEASE).ids) == ids[1:]


def test_rescue_passes_over_a_row_that_is_being_finished_without_waiting(database: Database) -> None:
    ids = made(database, requests, 2)
    claim = claimed(database, lease=RUN_OUT)
    with database.connection() as finishing:
        assert work.finish(finishing, JobRequest, claim.token, ids[:1]) == {ids[0]}
        with database.connection() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert work.rescue(second, JobRequest) == 1
    assert [row(database, key).state for key in ids] == ["done", "pending"]


@pytest.mark.parametrize(("table", "make"), TABLES)
def test_finished_rows_are_done_and_keep_the_token_as_evidence(
    database: Database, table: type[Work], make: Make
) -> None:
    ids = made(database, make, 3)
    claim = claimed(database, table=table)
    with database.connection() as connection:
        assert work.finish(connection, table, claim.token, ids[:2]) == set(ids[:2])
    with database.connection() as connection:
        assert work.finished(connection, table, claim.token, ids) == set(ids[:2])
        assert work.finished(connection, table, uuid4(), ids) == set()
        assert work.held(connection, table, claim.token) == ids[2:]
        assert work.held(connection, table, uuid4()) == []
    done = row(database, ids[0], table)
    assert (done.state, done.lease_until, done.claim_token) == ("done", None, claim.token)
    assert done.finished_at is not None


def test_what_is_held_is_told_oldest_first(database: Database) -> None:
    ids = made(database, requests, 5)
    set_all(database, "due_at = '2020-06-01'::timestamptz - (due_at - '2020-01-01')")
    claim = claimed(database)
    with database.connection() as connection:
        assert work.held(connection, JobRequest, claim.token) == ids[::-1] == list(claim.ids)


def test_only_the_rows_that_are_named_are_finished(database: Database) -> None:
    ids = made(database, requests, 2)
    claim = claimed(database)
    with database.connection() as connection:
        work.finish(connection, JobRequest, claim.token, [ids[1]])
    assert [row(database, key).state for key in ids] == ["running", "done"]


ACTIONS: dict[str, Callable[[Any, type[Work], UUID, list[UUID]], Any]] = {
    "finish": work.finish,
    "fail": lambda connection, table, token, ids: work.fail(
        connection, table, token, dict.fromkeys(ids, "too late"), permanent=False
    ),
    "fail for good": lambda connection, table, token, ids: work.fail(
        connection, table, token, dict.fromkeys(ids, "too late"), permanent=True
    ),
    "release": lambda connection, table, token, ids: work.release(connection, table, token, ids, error="too late"),
    "renew": lambda connection, table, token, _ids: work.renew(connection, table, token, timedelta(hours=1)),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("table", "make"), TABLES)
def test_a_zombie_whose_rows_were_taken_over_changes_nothing(
    database: Database, table: type[Work], make: Make, action: str
) -> None:
    ids = made(database, make, 2)
    zombie = claimed(database, table=table, lease=RUN_OUT)
    with database.connection() as connection:
        assert work.rescue(connection, table) == 2
    due_now(database, table)
    heirs = [claimed(database, table=table, suspects=True) for _ in ids]
    assert {key for heir in heirs for key in heir.ids} == set(ids)
    before = [row(database, key, table)[:-1] for key in ids]
    with database.connection() as connection:
        assert not ACTIONS[action](connection, table, zombie.token, ids)
    assert [row(database, key, table)[:-1] for key in ids] == before
    with database.connection() as connection:
        for heir in heirs:
            assert work.finish(connection, table, heir.token, heir.ids) == set(heir.ids)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_zombie_whose_rows_were_rescued_but_not_taken_yet_changes_nothing(database: Database, action: str) -> None:
    ids = made(database, requests, 2)
    zombie = claimed(database, lease=RUN_OUT)
    with database.connection() as connection:
        work.rescue(connection, JobRequest)
        assert not ACTIONS[action](connection, JobRequest, zombie.token, ids)
    assert [row(database, key).state for key in ids] == ["pending", "pending"]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_done_stays_done_whatever_its_own_worker_says_afterwards(database: Database, action: str) -> None:
    ids = made(database, requests, 1)
    claim = claimed(database)
    with database.connection() as connection:
        work.finish(connection, JobRequest, claim.token, ids)
    before = row(database, ids[0])[:-1]
    with database.connection() as connection:
        assert not ACTIONS[action](connection, JobRequest, claim.token, ids)
    assert row(database, ids[0])[:-1] == before


def test_a_failed_row_waits_longer_each_time_and_ends_in_failed_after_its_attempts(database: Database) -> None:
    (key,) = made(database, requests, 1)
    for attempt in range(1, JobRequest.max_attempts + 1):
        due_now(database)
        claim = claimed(database)
        assert row(database, key).attempts == attempt
        with database.connection() as connection:
            started = connection.execute(text("SELECT now()")).scalar_one()
            ended = work.fail(connection, JobRequest, claim.token, {key: f"no {attempt}"}, permanent=False)
        failed = row(database, key)
        assert failed.last_error == f"no {attempt}"
        assert (failed.lease_until, failed.claim_token, failed.claimed_by) == (None, None, None)
        if attempt < JobRequest.max_attempts:
            assert ended == set()
            assert (failed.state, failed.finished_at) == ("pending", None)
            wait = failed.due_at - started
            assert timedelta(seconds=2**attempt) <= wait <= timedelta(seconds=1.5 * 2**attempt + 5)
        else:
            assert ended == {key}
            assert failed.state == "failed"
            assert failed.finished_at is not None
    due_now(database)
    assert not claimed(database)


def test_waits_differ_at_random_so_that_a_thousand_failures_do_not_come_back_at_once(database: Database) -> None:
    ids = made(database, requests, 100)
    set_all(database, "attempts = 6")
    claim = claimed(database, 100)
    with database.connection() as connection:
        started = connection.execute(text("SELECT now()")).scalar_one()
        work.fail(connection, JobRequest, claim.token, dict.fromkeys(ids, "no"), permanent=False)
    waits = [(row(database, key).due_at - started).total_seconds() for key in ids]
    assert max(waits) - min(waits) > 20
    assert min(waits) >= 128


def test_no_wait_is_longer_than_an_hour(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobRequest, "max_attempts", 1_000_000)
    ids = made(database, requests, 50)
    set_all(database, "attempts = 5000")
    claim = claimed(database, 50)
    with database.connection() as connection:
        work.fail(connection, JobRequest, claim.token, dict.fromkeys(ids, "no"), permanent=False)
    after = row(database, ids[0]).now
    waits = [row(database, key).due_at - after for key in ids]
    assert max(waits) <= work.LONGEST_WAIT
    assert min(waits) > work.LONGEST_WAIT / 2


def test_a_permanent_failure_ends_at_the_first_attempt_and_says_why(database: Database) -> None:
    ids = made(database, requests, 2)
    claim = claimed(database)
    with database.connection() as connection:
        assert work.fail(connection, JobRequest, claim.token, {ids[0]: "Never."}, permanent=True) == {ids[0]}
    failed = row(database, ids[0])
    assert (failed.state, failed.attempts, failed.last_error) == ("failed", 1, "Never.")
    assert row(database, ids[1]).state == "running"


def test_an_error_is_kept_to_a_readable_length_and_without_nul(database: Database) -> None:
    (key,) = made(database, requests, 1)
    claim = claimed(database)
    with database.connection() as connection:
        work.fail(connection, JobRequest, claim.token, {key: "a\0b" + "é" * 10_000}, permanent=True)
    assert row(database, key).last_error == "ab" + "é" * (work.ERROR_LENGTH - 2)


def test_a_released_row_uses_up_no_attempt_and_is_due_at_once(database: Database) -> None:
    ids = made(database, requests, 3)
    claim = claimed(database)
    with database.connection() as connection:
        assert work.release(connection, JobRequest, claim.token, ids[:2]) == 2
    released = row(database, ids[0])
    assert (released.state, released.attempts, released.crashes) == ("pending", 0, 0)
    assert (released.claim_token, released.claimed_by, released.lease_until) == (None, None, None)
    assert row(database, ids[2]).state == "running"
    assert list(claimed(database).ids) == ids[:2]
    assert row(database, ids[0]).attempts == 1


def test_a_row_is_released_any_number_of_times_without_failing(database: Database) -> None:
    (key,) = made(database, requests, 1)
    for _ in range(JobRequest.max_attempts * 2):
        claim = claimed(database)
        with database.connection() as connection:
            assert work.release(connection, JobRequest, claim.token, [key]) == 1
    assert (row(database, key).state, row(database, key).attempts) == ("pending", 0)


def test_a_row_released_because_a_server_is_away_rests_and_says_why(database: Database) -> None:
    (key,) = made(database, requests, 1)
    claim = claimed(database)
    with database.connection() as connection:
        work.release(connection, JobRequest, claim.token, [key], wait=timedelta(seconds=30), error="S3 is away.")
    released = row(database, key)
    assert timedelta(seconds=25) < released.due_at - released.now <= timedelta(seconds=31)
    assert released.last_error == "S3 is away."
    assert not claimed(database)


def test_renewing_moves_the_lease_of_all_that_the_token_holds_and_of_nothing_else(database: Database) -> None:
    ids = made(database, requests, 3)
    first, second = claimed(database, 2, lease=RUN_OUT), claimed(database, 1, lease=RUN_OUT)
    with database.connection() as connection:
        assert work.renew(connection, JobRequest, first.token, LEASE) == 2
        assert work.rescue(connection, JobRequest) == 1
    assert [row(database, key).state for key in ids] == ["running", "running", "pending"]
    with database.connection() as connection:
        assert work.finish(connection, JobRequest, first.token, ids) == set(ids[:2])
        assert work.finish(connection, JobRequest, second.token, ids) == set()


def test_rescue_takes_back_only_what_was_held_past_its_lease(database: Database) -> None:
    ids = made(database, requests, 2)
    claimed(database, 1, lease=RUN_OUT)
    claimed(database, 1)
    with database.connection() as connection:
        assert work.rescue(connection, JobRequest) == 1
        assert work.rescue(connection, JobRequest) == 0
    rescued = row(database, ids[0])
    assert (rescued.state, rescued.attempts, rescued.crashes) == ("pending", 1, 1)
    assert (rescued.claim_token, rescued.claimed_by, rescued.finished_at) == (None, None, None)
    assert rescued.due_at <= rescued.now
    assert rescued.last_error == "Attempt 1 was not finished: its lease ran out."
    assert row(database, ids[1]).state == "running"


def test_what_a_dead_process_held_is_taken_back_before_its_lease_runs_out(database: Database) -> None:
    ids = made(database, requests, 3)
    claimed(database, 1, worker="here|1|1")
    claimed(database, 1, worker="here|2|2")
    claimed(database, 1, worker="here|2|2x")
    with database.connection() as connection:
        assert work.rescue_dead(connection, JobRequest, []) == 0
        assert work.rescue_dead(connection, JobRequest, ["here|2|2", "here|3|3"]) == 1
    assert [row(database, key).state for key in ids] == ["running", "pending", "running"]
    assert row(database, ids[1]).last_error == "Attempt 1 was not finished: its process died."


def test_the_holders_of_a_host_are_its_processes_that_hold_rows_now(database: Database) -> None:
    made(database, requests, 5)
    for worker in ("here|1|1", "here|1|1", "here|2|2", "here2|3|3"):
        claimed(database, 1, worker=worker)
    done = claimed(database, 1, worker="here|4|4")
    with database.connection() as connection:
        work.finish(connection, JobRequest, done.token, done.ids)
        assert sorted(work.holders(connection, JobRequest, "here")) == ["here|1|1", "here|2|2"]
        assert work.holders(connection, JobRequest, "he%") == []


def test_suspects_are_claimed_alone_and_never_with_fresh_rows(database: Database) -> None:
    ids = made(database, requests, 5)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.job_requests SET crashes = 1 WHERE id = ANY (:ids)"), {"ids": ids[:2]})
    assert list(claimed(database, 10).ids) == ids[2:]
    with database.connection() as connection:
        assert work.is_due(connection, JobRequest)
    assert list(claimed(database, 10, suspects=True).ids) == ids[:1]
    assert list(claimed(database, 10, suspects=True).ids) == ids[1:2]
    assert not claimed(database, 10, suspects=True)


def test_poison_ends_in_failed_after_its_attempts_while_its_neighbours_get_done(database: Database) -> None:
    ids = made(database, requests, 6)
    poison = ids[2]
    deaths = 0
    for _ in range(100):
        due_now(database)
        claim = claimed(database, 3) or claimed(database, 3, suspects=True)
        if not claim:
            break
        if poison in claim.ids:
            deaths += 1
            with database.connection() as connection:
                assert work.rescue_dead(connection, JobRequest, ["host|1|1"]) == len(claim.ids)
        else:
            with database.connection() as connection:
                assert work.finish(connection, JobRequest, claim.token, claim.ids) == set(claim.ids)
    assert deaths == JobRequest.max_attempts
    assert {key: row(database, key).state for key in ids} == dict.fromkeys(ids, "done") | {poison: "failed"}
    ended = row(database, poison)
    assert (ended.attempts, ended.crashes) == (JobRequest.max_attempts, JobRequest.max_attempts)
    assert ended.finished_at is not None
    assert max(row(database, key).attempts for key in ids if key != poison) == 2


def test_a_suspect_waits_longer_after_each_death_but_never_more_than_a_minute(database: Database) -> None:
    (key,) = made(database, requests, 1)
    waits = []
    for _ in range(7):
        due_now(database)
        assert claimed(database) or claimed(database, suspects=True)
        with database.connection() as connection:
            started = connection.execute(text("SELECT now()")).scalar_one()
            work.rescue_dead(connection, JobRequest, ["host|1|1"])
        waits.append(round((row(database, key).due_at - started).total_seconds()))
    assert waits == [0, 1, 3, 7, 15, 31, 59]


def test_a_mail_whose_worker_vanished_before_the_mark_is_sent_again_and_after_it_never(database: Database) -> None:
    with database.transaction() as session:
        ids = emails(session, 2)
    claimed(database, table=EmailMessage)
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.email_messages SET committing_at = now() WHERE id = :id"), {"id": ids[0]}
        )
        assert work.rescue_dead(connection, EmailMessage, ["host|1|1"]) == 2
    unknown, pending = row(database, ids[0], EmailMessage), row(database, ids[1], EmailMessage)
    assert (unknown.state, pending.state) == ("unknown", "pending")
    assert unknown.finished_at is not None
    assert (unknown.lease_until, pending.finished_at) == (None, None)
    due_now(database, EmailMessage)
    assert list(claimed(database, table=EmailMessage, suspects=True).ids) == ids[1:]
    assert not claimed(database, table=EmailMessage)
    assert not claimed(database, table=EmailMessage, suspects=True)


@pytest.mark.parametrize(("mark", "state"), [("NULL", "failed"), ("now()", "unknown")])
def test_a_mail_whose_worker_vanished_at_its_last_attempt_is_failed_only_if_it_was_surely_not_sent(
    database: Database, mark: str, state: str
) -> None:
    with database.transaction() as session:
        (key,) = emails(session, 1, crashes=EmailMessage.max_attempts - 1)
    claimed(database, table=EmailMessage, lease=RUN_OUT, suspects=True)
    set_all(database, f"committing_at = {mark}", EmailMessage)
    with database.connection() as connection:
        assert work.rescue(connection, EmailMessage) == 1
    assert row(database, key, EmailMessage).state == state


@pytest.mark.parametrize(("table", "make"), TABLES)
@pytest.mark.parametrize("changes", ["state = 'running'", "lease_until = now()", "state = 'nonsense'"])
def test_the_database_refuses_a_lease_without_running_and_running_without_a_lease(
    database: Database, table: type[Work], make: Make, changes: str
) -> None:
    made(database, make, 1)
    with pytest.raises(IntegrityError):
        set_all(database, changes, table)


def test_is_due_looks_with_the_conditions_of_a_job_and_sees_suspects(database: Database) -> None:
    def due(where: str = "true") -> bool:
        with database.connection() as connection:
            return work.is_due(connection, EmailMessage, where)

    assert not due()
    with database.transaction() as session:
        emails(session, 1, urgent=True)
    assert (due(), due("urgent"), due("NOT urgent")) == (True, True, False)
    set_all(database, "crashes = 1", EmailMessage)
    assert (due(), due("urgent"), due("NOT urgent")) == (True, True, False)
    assert not claimed(database, table=EmailMessage, where="NOT urgent", suspects=True)
    assert claimed(database, table=EmailMessage, where="urgent", suspects=True)
    assert not due()


@pytest.fixture
def listener(database_url: str) -> Iterator[Callable[[], list[str]]]:
    """Listens as the relay does; what is called returns what came since it was called last."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("LISTEN tenure_work")
        connection.execute("LISTEN the_end")

        def heard() -> list[str]:
            # Notifications are delivered in the order of their commits: the last one shows that all have come.
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("NOTIFY the_end")
            payloads = []
            for notification in connection.notifies(timeout=deadline(30)):
                if notification.channel == "the_end":
                    return payloads
                payloads.append(notification.payload)
            raise AssertionError("the last notification never came")

        yield heard


@pytest.mark.parametrize(("table", "make"), TABLES)
def test_a_bulk_insert_tells_the_relay_once_and_a_rolled_back_one_never(
    database: Database, table: type[Work], make: Make, listener: Callable[[], list[str]]
) -> None:
    made(database, make, 500)
    assert listener() == [table.__tablename__]
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        make(session, 3)
        raise ZeroDivisionError
    assert listener() == []


def test_what_becomes_due_again_is_told_to_the_relay(database: Database, listener: Callable[[], list[str]]) -> None:
    ids = made(database, requests, 2)
    claim = claimed(database, 1)
    claimed(database, 1, lease=RUN_OUT)
    listener()
    with database.connection() as connection:
        work.release(connection, JobRequest, claim.token, ids)
    assert listener() == ["job_requests"]
    with database.connection() as connection:
        work.rescue(connection, JobRequest)
    assert listener() == ["job_requests"]
    with database.connection() as connection:
        work.rescue(connection, JobRequest)
    assert listener() == []


def test_a_live_process_is_not_dead_and_its_identity_names_host_pid_and_start() -> None:
    name = identity()
    where, pid, start = name.rsplit("|", 2)
    assert where.split("/")[0] == socket.gethostname()
    assert int(pid) == os.getpid()
    assert start == started(os.getpid())
    assert dead([name]) == []


def test_a_process_that_ended_is_dead_and_so_is_one_that_nobody_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity(process.pid)
    assert dead([name]) == []
    process.kill()
    # Dead, and not yet waited for: it still has its pid.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert dead([name]) == [name]
    process.communicate(timeout=deadline(30))
    assert dead([name]) == [name]


def test_a_process_is_dead_when_a_later_one_has_its_pid() -> None:
    where, pid, start = identity().rsplit("|", 2)
    earlier = f"{where}|{pid}|{int(start) - 100}"
    assert dead([earlier, identity()]) == [earlier]


def test_processes_of_another_host_or_container_are_never_taken_for_dead() -> None:
    _, _, start = identity().rsplit("|", 2)
    assert dead([f"elsewhere|1|{start}", "elsewhere|999999999|0", f"{host()}x|999999999|0"]) == []
    assert dead([f"{host()}|999999999|0"]) == [f"{host()}|999999999|0"]
