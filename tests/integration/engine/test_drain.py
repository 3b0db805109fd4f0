"""The loop that all work goes through: failures of one row, of a server, of COMMIT, of the process (W1, W3, W9)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from models.base.unit_of_work import Database, is_outage
from models.work import row as work
from models.work.request import JobRequest, Quarantined
from tasks.engine.drain import drain
from tasks.engine.job import AlreadyEnded, ClaimedRow, Job
from tasks.engine.lease import rescue
from tasks.failures import Permanent, Transient, Unavailable
from tasks.ports.context import Ports
from tests.conftest import RecordedWaker
from tests.support.servers.database_proxy import DatabaseProxy
from tests.support.time.deadlines import deadline

Act = Callable[[UUID, ClaimedRow], str]
Record = Callable[[Session, Mapping[UUID, str], Ports], None]

TASK = "tests.do"


def requests(database: Database, count: int, **values: Any) -> list[UUID]:
    with database.transaction() as session:
        return list(
            session.scalars(
                insert(JobRequest).returning(JobRequest.id, sort_by_parameter_order=True),
                [{"kind": TASK, "args": {}, **values} for _ in range(count)],
            )
        )


def the_row_itself(_session: Session, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    return {key: key for key in ids}


def effect(session: Session, results: Mapping[UUID, str], _ports: Ports) -> None:
    """One row for each row that was done, without the unique key that would hide a second."""
    for key, result in results.items():
        session.execute(
            text("""
                INSERT INTO tenure.quarantine (message_id, kind, body, reason)
                VALUES (CAST(uuidv7() AS text), :id, '', :result)"""),
            {"id": str(key), "result": result},
        )


def job(act: Act = lambda _item, _held: "done", record: Record = effect, **values: Any) -> Job[UUID, str]:
    return Job(**{"task": TASK, "table": JobRequest, "load": the_row_itself, "act": act, "record": record, **values})


def rows(database: Database) -> dict[UUID, Any]:
    with database.connection() as connection:
        return {
            row.id: row for row in connection.execute(text("SELECT *, now() AS now FROM tenure.job_requests")).all()
        }


def states(database: Database, ids: Sequence[UUID]) -> list[str]:
    found = rows(database)
    return [found[key].state for key in ids]


def effects(database: Database) -> list[UUID]:
    with database.transaction() as session:
        return sorted(UUID(kind) for kind in session.scalars(text("SELECT kind FROM tenure.quarantine")))


def woken(ports: Ports) -> list[str]:
    assert isinstance(ports.wake, RecordedWaker)
    return ports.wake.woken


def failing(ids: Sequence[UUID], error: Exception) -> Act:
    def act(item: UUID, _claimed: ClaimedRow) -> str:
        if item in ids:
            raise error
        return "done"

    return act


def test_all_that_is_due_is_done_batch_by_batch(database: Database, ports: Ports) -> None:
    ids = requests(database, 25)
    batches: list[int] = []

    def load(_session: Session, some: Sequence[UUID]) -> dict[UUID, UUID]:
        batches.append(len(some))
        return {key: key for key in some}

    assert drain(job(load=load, batch=10, done="made"), ports) == {"made": 25}
    assert batches == [10, 10, 5]
    assert effects(database) == sorted(ids)
    assert set(states(database, ids)) == {"done"}
    # A full batch says that there may be work for another process: one is asked, once.
    assert woken(ports) == [TASK]


def test_nothing_due_is_nothing_done(ports: Ports) -> None:
    assert drain(job(done="made"), ports) == {"made": 0}
    assert woken(ports) == []


def test_what_a_job_feeds_is_woken_when_something_was_done_and_only_then(database: Database, ports: Ports) -> None:
    drain(job(wakes=("tests.next",)), ports)
    assert woken(ports) == []
    requests(database, 1)
    drain(job(wakes=("tests.next",)), ports)
    assert woken(ports) == ["tests.next"]


def test_a_job_does_only_the_rows_that_its_condition_names(database: Database, ports: Ports) -> None:
    ids = requests(database, 3, source="operator") + requests(database, 2)
    assert drain(job(where="source = 'operator'"), ports) == {"done": 3}
    assert states(database, ids) == ["done"] * 3 + ["pending"] * 2


@pytest.mark.parametrize(
    ("error", "state", "text_kept", "counted"),
    [
        (Transient("The other side is busy."), "pending", "The other side is busy.", {"done": 4, "retried": 1}),
        (Permanent("It is the wrong address."), "failed", "It is the wrong address.", {"done": 4, "failed": 1}),
        (ValueError("jane@customer.example owes 12"), "pending", "ValueError at ", {"done": 4, "retried": 1}),
    ],
)
def test_one_row_that_fails_does_not_hold_up_its_neighbours(
    database: Database, ports: Ports, *, error: Exception, state: str, text_kept: str, counted: dict[str, int]
) -> None:
    ids = requests(database, 5)
    assert drain(job(failing(ids[2:3], error)), ports) == counted
    assert states(database, ids) == ["done", "done", state, "done", "done"]
    failed = rows(database)[ids[2]]
    assert failed.last_error.startswith(text_kept)
    assert (failed.attempts, failed.crashes, failed.lease_until) == (1, 0, None)
    assert effects(database) == sorted(key for key in ids if key != ids[2])


def test_the_error_of_a_bug_says_kind_and_place_and_no_value_of_anybody(database: Database, ports: Ports) -> None:
    secret = "jane@customer.example"
    ids = requests(database, 2)

    def act(item: UUID, _claimed: ClaimedRow) -> str:
        if item == ids[0]:
            raise KeyError(secret)
        return secret

    def record(session: Session, results: Mapping[UUID, str], _ports: Ports) -> None:
        for result in results.values():
            session.execute(text("SELECT CAST(:secret AS int)"), {"secret": result})

    with capture_logs() as logged:
        assert drain(job(act, record), ports) == {"done": 0, "retried": 2}
    first, second = (rows(database)[key].last_error for key in ids)
    assert first.startswith("KeyError at engine/test_drain.py:")
    assert first.endswith(" in act")
    assert second.startswith("DataError at ")
    assert secret not in f"{first}{second}{logged}"
    assert [entry["log_level"] for entry in logged if entry["event"] == "work.failed"] == ["error", "error"]


def test_a_bug_is_tried_a_few_times_and_then_failed(database: Database, ports: Ports) -> None:
    (key,) = requests(database, 1)
    for _ in range(JobRequest.max_attempts + 3):
        drain(job(failing([key], RuntimeError())), ports)
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.job_requests SET due_at = now() - interval '1 s'"))
    assert (rows(database)[key].state, rows(database)[key].attempts) == ("failed", JobRequest.max_attempts)


def test_a_server_that_is_away_costs_no_row_an_attempt_and_ends_the_drain(database: Database, ports: Ports) -> None:
    ids = requests(database, 5)
    calls: list[UUID] = []

    def act(item: UUID, _claimed: ClaimedRow) -> str:
        calls.append(item)
        if item in ids[2:]:
            raise Unavailable("S3 does not answer.")
        return "done"

    assert drain(job(act), ports) == {"done": 2, "handed_back": 3}
    # The second row that meets it says that it was not the first one's fault.
    assert calls == ids[:4]
    found = rows(database)
    assert [found[key].state for key in ids] == ["done", "done"] + ["pending"] * 3
    assert [found[key].attempts for key in ids] == [1, 1, 0, 0, 0]
    for key in ids[2:]:
        assert timedelta(0) < found[key].due_at - found[key].now <= timedelta(seconds=11)
        assert found[key].last_error == "S3 does not answer."
    # The next tick tries again: to wake one now would only be told the same.
    assert woken(ports) == []


def test_a_row_that_cannot_be_recorded_does_not_hold_up_the_others(database: Database, ports: Ports) -> None:
    ids = requests(database, 5)

    def record(session: Session, results: Mapping[UUID, str], some: Ports) -> None:
        effect(session, results, some)
        if ids[1] in results:
            raise Permanent("There is nothing to state.")

    assert drain(job(record=record, record_every=5), ports) == {"done": 4, "failed": 1}
    assert states(database, ids) == ["done", "failed", "done", "done", "done"]
    assert effects(database) == sorted(key for key in ids if key != ids[1])
    assert rows(database)[ids[1]].last_error == "There is nothing to state."


def test_a_row_that_breaks_the_database_transaction_does_not_hold_up_the_others(
    database: Database, ports: Ports
) -> None:
    ids = requests(database, 3)

    def record(session: Session, results: Mapping[UUID, str], some: Ports) -> None:
        effect(session, results, some)
        if ids[1] in results:
            session.add(Quarantined(message_id="same", body=b"", reason=""))
            session.flush()
            session.add(Quarantined(message_id="same", body=b"", reason=""))

    assert drain(job(record=record), ports) == {"done": 2, "retried": 1}
    assert states(database, ids) == ["done", "pending", "done"]
    assert effects(database) == sorted([ids[0], ids[2]])


def test_a_row_that_cannot_be_loaded_does_not_hold_up_the_others(database: Database, ports: Ports) -> None:
    ids = requests(database, 5)

    def load(session: Session, some: Sequence[UUID]) -> dict[UUID, UUID]:
        if ids[3] in some:
            session.execute(text("SELECT 1 / 0"))
        return {key: key for key in some}

    assert drain(job(load=load), ports) == {"done": 4, "retried": 1}
    assert states(database, ids) == ["done", "done", "done", "pending", "done"]


def test_a_row_that_load_does_not_find_fails_and_the_others_are_done(database: Database, ports: Ports) -> None:
    ids = requests(database, 3)
    found = job(load=lambda _session, some: {key: key for key in some if key != ids[0]})
    assert drain(found, ports) == {"done": 2, "retried": 1}
    assert rows(database)[ids[0]].last_error.startswith("KeyError at ")


def test_load_cannot_write(database: Database, ports: Ports) -> None:
    (key,) = requests(database, 1)

    def load(session: Session, some: Sequence[UUID]) -> dict[UUID, UUID]:
        session.execute(text("DELETE FROM tenure.job_requests"))
        return {key: key for key in some}

    drain(job(load=load), ports)
    assert rows(database)[key].state == "pending"


def test_what_act_settled_itself_is_not_recorded_again(database: Database, ports: Ports) -> None:
    ids = requests(database, 2)
    assert drain(job(failing(ids[:1], AlreadyEnded())), ports) == {"done": 1, "settled": 1}
    assert effects(database) == ids[1:]


def test_a_process_that_is_asked_to_stop_hands_back_the_rest_within_one_item(database: Database, ports: Ports) -> None:
    ids = requests(database, 10)
    done: list[UUID] = []

    def act(item: UUID, _claimed: ClaimedRow) -> str:
        done.append(item)
        return "done"

    stopping = replace(ports, stopping=lambda: len(done) >= 3)
    assert drain(job(act, batch=6), stopping) == {"done": 3, "handed_back": 3}
    found = rows(database)
    assert [found[key].state for key in ids] == ["done"] * 3 + ["pending"] * 7
    assert [found[key].attempts for key in ids] == [1] * 3 + [0] * 7
    assert set(woken(ports)) == {TASK}
    # Whoever goes on finds them due at once.
    assert drain(job(act), ports) == {"done": 7}


def test_a_stopping_process_claims_nothing(database: Database, ports: Ports) -> None:
    (key,) = requests(database, 1)
    assert drain(job(), replace(ports, stopping=lambda: True)) == {"done": 0}
    assert (rows(database)[key].state, rows(database)[key].attempts) == ("pending", 0)
    assert woken(ports) == [TASK]


def test_when_the_budget_ends_with_work_left_another_drain_is_woken(database: Database, ports: Ports) -> None:
    ids = requests(database, 4)
    over = threading.Event()

    def act(_item: UUID, _claimed: ClaimedRow) -> str:
        over.wait(0.11)
        return "done"

    assert drain(job(act, batch=2), replace(ports, budget=timedelta(seconds=0.2))) == {"done": 2}
    assert states(database, ids) == ["done", "done", "pending", "pending"]
    # Once because the batch was full, once because the budget ended.
    assert woken(ports) == [TASK, TASK]


def test_suspects_are_done_alone_and_after_the_others(database: Database, ports: Ports) -> None:
    suspects = requests(database, 2, crashes=1)
    fresh = requests(database, 3)
    batches: list[list[UUID]] = []

    def load(_session: Session, some: Sequence[UUID]) -> dict[UUID, UUID]:
        batches.append(list(some))
        return {key: key for key in some}

    assert drain(job(load=load), ports) == {"done": 5}
    assert [len(batch) for batch in batches] == [3, 1, 1]
    assert batches[0] == fresh
    assert [key for batch in batches[1:] for key in batch] == suspects


def test_a_drain_takes_back_first_what_the_dead_of_its_host_held(database: Database, ports: Ports) -> None:
    ids = requests(database, 3)
    here = ports.worker.partition("|")[0]
    for worker in (f"{here}|999999999|1", "elsewhere|999999999|1", ports.worker):
        with database.connection() as connection:
            work.claim(connection, JobRequest, 1, worker=worker, lease=timedelta(seconds=60))
    assert drain(job(), ports) == {"done": 1, "rescued": 1}
    assert states(database, ids) == ["done", "running", "running"]
    with database.connection() as connection:
        connection.execute(
            text("""
                UPDATE tenure.job_requests SET lease_until = now() - interval '1 s', due_at = now() - interval '1 min'
                 WHERE id = :id"""),
            {"id": ids[1]},
        )
    assert rescue(JobRequest, replace(ports, lease=timedelta(seconds=0.2))) == 0
    time.sleep(0.2)
    assert rescue(JobRequest, replace(ports, lease=timedelta(seconds=0.2))) == 1


def test_a_slow_item_is_not_taken_by_another_while_its_lease_is_renewed(
    database: Database, ports: Ports, other_worker: Ports
) -> None:
    (key,) = requests(database, 1)
    lease = timedelta(seconds=0.6)
    taken: list[dict[str, int]] = []

    def act(_item: UUID, claimed: ClaimedRow) -> str:
        # Three times its lease, looked at by another worker all the time.
        slow = threading.Event()
        for _ in range(18):
            slow.wait(0.1)
            taken.append(drain(job(), replace(other_worker, lease=lease)))
        return "slowly"

    assert drain(job(act), replace(ports, lease=lease)) == {"done": 1}
    assert {frozenset(counts.items()) for counts in taken} == {frozenset({("done", 0)})}
    assert rows(database)[key].attempts == 1
    assert effects(database) == [key]


def test_no_lease_is_renewed_after_its_drain_has_ended(database: Database, ports: Ports) -> None:
    before = threading.active_count()
    requests(database, 3)
    drain(job(batch=1), ports)
    assert threading.active_count() == before


def test_a_zombie_changes_nothing_when_it_wakes(database: Database, ports: Ports, other_worker: Ports) -> None:
    ids = requests(database, 3)

    def taken_over(_item: UUID, claimed: ClaimedRow) -> None:
        # As after SIGSTOP: the lease ran out, nobody renewed it, another worker did the work.
        with database.connection() as connection:
            if connection.execute(
                text("UPDATE tenure.job_requests SET lease_until = now() - interval '1 s' WHERE claim_token = :token"),
                {"token": claimed.token},
            ).rowcount:
                assert work.rescue(connection, JobRequest) == 3
        drain(job(lambda _item, _held: "heir"), other_worker)

    def act(item: UUID, claimed: ClaimedRow) -> str:
        if item == ids[0]:
            taken_over(item, claimed)
        if item == ids[1]:
            raise Permanent("The zombie says never.")
        return "zombie"

    with capture_logs() as logged:
        assert drain(job(act), ports)["done"] == 0
    assert effects(database) == sorted(ids)
    with database.transaction() as session:
        assert set(session.scalars(text("SELECT reason FROM tenure.quarantine"))) == {"heir"}
    assert set(states(database, ids)) == {"done"}
    assert "work.taken_over" in [entry["event"] for entry in logged]


def test_two_drains_side_by_side_do_each_row_once(database: Database, ports: Ports, other_worker: Ports) -> None:
    ids = requests(database, 150)
    threads = [
        threading.Thread(target=drain, args=(job(batch=7, record_every=3), some)) for some in (ports, other_worker)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=deadline(60))
    assert effects(database) == sorted(ids)
    assert {row.attempts for row in rows(database).values()} == {1}


@pytest.mark.parametrize("mode", ["lost commit", "lost answer"])
@pytest.mark.parametrize("record_every", [1, 10])
def test_a_commit_of_effects_whose_answer_was_lost_has_exactly_one_effect(
    database: Database, far_ports: Ports, proxy: DatabaseProxy, mode: str, record_every: int
) -> None:
    ids = requests(database, 5)
    cut: list[UUID] = []
    acted: list[UUID] = []

    def act(item: UUID, _claimed: ClaimedRow) -> str:
        acted.append(item)
        return "done"

    def record(session: Session, results: Mapping[UUID, str], some: Ports) -> None:
        effect(session, results, some)
        if not cut:
            cut.extend(results)
            proxy.arm(mode)

    with capture_logs() as logged:
        assert drain(job(act, record, record_every=record_every), far_ports) == {"done": 5}
    assert proxy.broken == 1
    assert "work.commit_unanswered" in [entry["event"] for entry in logged]
    assert acted == ids
    assert effects(database) == sorted(ids)
    assert {(row.state, row.attempts) for row in rows(database).values()} == {("done", 1)}


@pytest.mark.parametrize("mode", ["lost commit", "lost answer"])
def test_a_commit_of_a_claim_whose_answer_was_lost_loses_no_row_and_does_none_twice(
    database: Database, far_ports: Ports, proxy: DatabaseProxy, mode: str
) -> None:
    ids = requests(database, 5)
    armed = False

    def dead(_holders: Sequence[str]) -> list[str]:
        # Called in the transaction before the claim's: the second COMMIT from here is the claim's.
        nonlocal armed
        if not armed:
            armed = True
            proxy.arm(mode, 2)
        return []

    first = drain(job(), replace(far_ports, dead=dead))
    assert proxy.broken == 1
    second = drain(job(), replace(far_ports, dead=dead))
    assert first["done"] + second["done"] == 5
    if mode == "lost answer":
        assert first["done"] == 5
    assert effects(database) == sorted(ids)
    assert {(row.state, row.attempts) for row in rows(database).values()} == {("done", 1)}


def test_effects_whose_row_was_taken_over_while_the_commit_was_unanswered_are_not_written_again(
    database: Database, far_ports: Ports, other_worker: Ports, proxy: DatabaseProxy
) -> None:
    (key,) = requests(database, 1)
    heir: list[dict[str, int]] = []

    def record(session: Session, results: Mapping[UUID, str], some: Ports) -> None:
        if results[key] == "first":
            if heir:
                raise AssertionError("recorded again without the row")
            effect(session, results, some)
            proxy.arm("lost commit")

    def act(_item: UUID, _claimed: ClaimedRow) -> str:
        return "first"

    def take_over(*_: object) -> None:
        if proxy.broken and not heir:
            with database.connection() as connection:
                # Found run out by a rescue a minute ago, and not renewed since.
                connection.execute(
                    text("""
                        UPDATE tenure.job_requests
                           SET lease_until = now() - interval '2 min', due_at = now() - interval '1 min'""")
                )
            heir.append(drain(job(), other_worker))

    # The settling transaction is the first thing that happens after the cut: take the row over just before it.
    event.listen(far_ports.database.engine, "checkout", take_over)
    assert drain(job(act, record), far_ports)["done"] == 0
    assert heir == [{"done": 1, "rescued": 1}]
    assert effects(database) == [key]


def test_when_postgresql_goes_away_the_drain_ends_and_no_row_is_blamed(
    database: Database, far_ports: Ports, proxy: DatabaseProxy
) -> None:
    ids = requests(database, 3)

    def act(item: UUID, claimed: ClaimedRow) -> str:
        with claimed.ports.database.connection() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return "never"

    with pytest.raises(OperationalError) as caught:
        drain(job(act), far_ports)
    assert is_outage(caught.value)
    found = rows(database)
    assert [found[key].last_error for key in ids] == [None] * 3
    assert effects(database) == []


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT 1 / 0", {}),
        ("SELECT * FROM nowhere", {}),
        ("SELECT CAST(:value AS int)", {"value": "x"}),
        ("SELECT CAST(:value AS text)", {"value": "a\0b"}),
        ("SELECT CAST('infinity' AS timestamptz)", {}),
        ("INSERT INTO tenure.quarantine (message_id) VALUES ('x')", {}),
    ],
)
def test_what_postgresql_or_its_driver_refuses_is_no_outage(
    database: Database, statement: str, values: dict[str, str]
) -> None:
    with pytest.raises(DBAPIError) as caught, database.connection() as connection:
        connection.execute(text(statement), values).all()
    assert not is_outage(caught.value)


def test_a_server_that_is_not_there_or_hangs_up_is_an_outage(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught, database.connection() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert is_outage(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DBAPIError) as caught, Database(f"postgresql://x:y@127.0.0.1:{port}/x").connection():
        pass
    assert is_outage(caught.value)


def test_a_drain_makes_room_for_what_goes_first_and_hands_the_rest_back(
    database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.drain.GIVE_WAY_LOOK", 0.0)
    requests(database, 5)
    waker = ports.wake
    assert isinstance(waker, RecordedWaker)

    def act(_item: UUID, _claimed: ClaimedRow) -> str:
        waker.waiting.add("emails.send_urgent")
        return "done"

    assert drain(job(act), ports) == {"done": 1, "handed_back": 4}
    assert waker.woken == [TASK]
    # While it waits, nothing else is begun.
    assert drain(job(act), ports) == {"done": 0}
    monkeypatch.setattr("tasks.engine.drain.GIVE_WAY_LOOK", 3600.0)
    assert drain(job(act), ports) == {"done": 4}


def test_what_gives_way_to_nothing_does_not_ask(database: Database, ports: Ports) -> None:
    requests(database, 3)
    ports.wake.waiting = {"emails.send_urgent", TASK}  # type: ignore[attr-defined]
    assert drain(job(yields_to=()), ports) == {"done": 3}
