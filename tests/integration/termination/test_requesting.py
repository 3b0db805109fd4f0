"""A termination is asked for and taken back; the freeze stops an account's work and waits for the rest (T3, T9)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.customers.account import Account
from models.data_map.map import AccountKeys
from models.termination.termination import Stage, Step, Termination
from models.work.request import JobRequest
from tasks.client.requests import RequestRefused, SessionsRevoke, TerminationsCancel, TerminationsRequest, submit
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tasks.termination import freezing
from tasks.termination.advancing import ADVANCE, PURGE
from tasks.termination.cancelling import cancel
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.rows.purging import a_delivered_termination
from tests.support.rows.terminating import a_termination, stage, steps


@pytest.fixture
def acme(database: Database) -> AccountKeys:
    with database.transaction() as session:
        account = an_account(session, ref="acme", name="Acme")
        a_contact(session, account, email="ada@acme.example", name="Ada")
        an_entry(session, account, 100)
    return AccountKeys(account.id, "acme")


def one(database: Database, sql: str) -> object:
    with database.connection() as connection:
        return connection.execute(text(sql)).scalar_one()


def in_grace(database: Database, account: AccountKeys, *due: Step) -> UUID:
    with database.transaction() as session:
        made = a_termination(session, account.id, *due)
        session.execute(update(Termination).values(stage=Stage.GRACE))
        return made.id


def frozen(database: Database, ports: Ports, account: AccountKeys) -> UUID:
    made = in_grace(database, account, Step.FREEZE)
    assert drain(ADVANCE, ports)["steps"] == 1
    assert stage(database) == ("frozen", None)
    return made


def test_a_request_makes_one_termination_and_the_second_is_refused_in_a_sentence(
    acme: AccountKeys, database: Database, ports: Ports
) -> None:
    for key in ("a", "b"):
        with database.transaction() as session:
            submit(session, TerminationsRequest(account="acme", grace_days=2), dedupe_key=key)
    assert drain(HANDLE, ports) == {"handled": 1, "failed": 1}
    refused = one(database, "SELECT last_error FROM tenure.job_requests WHERE state = 'failed'")
    assert str(refused).startswith("The account's termination was asked for already: ")
    assert (stage(database), steps(database)) == (("requested", None), {"begin": "pending"})
    assert one(database, "SELECT cancel_until - ends_at = interval '2 days' FROM tenure.terminations") is True
    assert one(database, "SELECT recipient ->> 'name' FROM tenure.email_messages") == "Ada"


def test_the_freeze_ends_sessions_stops_work_and_remembers_whom_to_write_to(
    acme: AccountKeys, database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        session.execute(text("SELECT tenure.create_session('acme', sha256(''))"))
        submit(session, SessionsRevoke(account="acme"))
        session.execute(text(MAIL), {"state": "pending", "key": "a"})
    frozen(database, ports, acme)
    assert one(database, "SELECT count(*) FROM tenure.sessions") == 0
    for table in ("job_requests", "email_messages"):
        assert one(database, f"SELECT state FROM tenure.{table}") == "cancelled"
    kept = one(database, "SELECT correspondence FROM tenure.terminations")
    assert isinstance(kept, dict)
    assert (kept["account_ref"], [each["email"] for each in kept["contacts"]]) == ("acme", ["ada@acme.example"])


#: A message to Ada.
MAIL = """
    INSERT INTO tenure.email_messages (account_id, contact_id, message, to_address, context, dedupe_key, message_id,
                                       state, lease_until, committing_at)
    SELECT account_id, id, 'x', email, '{}', :key, :key, CAST(:state AS text),
           CASE CAST(:state AS text) WHEN 'running' THEN now() END,
           CASE CAST(:state AS text) WHEN 'running' THEN now() END
      FROM tenure.contacts"""


def test_what_was_stopped_goes_on_when_the_termination_is_taken_back(
    acme: AccountKeys, database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        session.execute(text(MAIL), {"state": "pending", "key": "a"})
        session.execute(text(MAIL), {"state": "cancelled", "key": "b"})
    due_at = one(database, "SELECT statement_due_at FROM tenure.accounts")
    made = frozen(database, ports, acme)
    # For a frozen account, too; and nothing of it is then the account's.
    with database.transaction() as session:
        submit(session, TerminationsCancel(account="acme"))
    assert one(database, "SELECT args FROM tenure.job_requests") == {"termination": str(made)}
    assert one(database, "SELECT account_id IS NULL FROM tenure.job_requests") is True
    assert drain(HANDLE, ports)["handled"] == 1
    assert stage(database) == ("cancelled", None)
    assert steps(database) == {"freeze": "done", "export": "cancelled", "retire_archive": "pending"}
    assert one(database, "SELECT status FROM tenure.accounts") == "active"
    assert one(database, "SELECT statement_due_at FROM tenure.accounts") == due_at
    assert one(database, "SELECT correspondence IS NULL FROM tenure.terminations") is True
    # What a person had cancelled stays so.
    assert one(database, "SELECT state FROM tenure.email_messages WHERE dedupe_key = 'a'") == "pending"
    assert one(database, "SELECT state FROM tenure.email_messages WHERE dedupe_key = 'b'") == "cancelled"
    with database.transaction() as session:
        submit(session, TerminationsRequest(account="acme"))
    assert drain(HANDLE, ports)["handled"] == 1


def test_the_freeze_waits_for_a_message_that_is_just_leaving(
    acme: AccountKeys, database: Database, ports: Ports
) -> None:
    with database.connection() as connection:
        connection.execute(text(MAIL), {"state": "running", "key": "a"})
    in_grace(database, acme, Step.FREEZE)
    assert drain(ADVANCE, ports) == {"steps": 0, "settled": 1}
    assert (stage(database), one(database, "SELECT status FROM tenure.accounts")) == (("grace", None), "active")
    assert one(database, "SELECT attempts FROM tenure.termination_steps") == 0
    assert "email_messages are under way" in str(one(database, "SELECT last_error FROM tenure.termination_steps"))
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.email_messages SET state = 'done', lease_until = NULL"))
        connection.execute(text("UPDATE tenure.termination_steps SET due_at = now()"))
    assert drain(ADVANCE, ports)["steps"] == 1
    assert one(database, "SELECT state FROM tenure.email_messages") == "done"


def test_the_freeze_waits_for_a_writer_and_makes_nobody_wait_long(
    acme: AccountKeys, database: Database, database_url: str, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "FREEZE_LOCK_TIMEOUT", timedelta(milliseconds=200))
    in_grace(database, acme, Step.FREEZE)
    with psycopg.connect(database_url) as writer:
        writer.execute("INSERT INTO tenure.contacts (account_id, name, email) SELECT id, 'x', 'x' FROM tenure.accounts")
        assert drain(ADVANCE, ports) == {"steps": 0, "settled": 1}
        assert "Another transaction writes" in str(one(database, "SELECT last_error FROM tenure.termination_steps"))
        writer.commit()
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.termination_steps SET due_at = now()"))
    assert drain(ADVANCE, ports)["steps"] == 1
    assert one(database, "SELECT jsonb_array_length(correspondence -> 'contacts') FROM tenure.terminations") == 2


SEALED = {
    "archive_key": "k", "archive_sha256": bytes(32), "manifest_sha256": bytes(32), "exported_rows": {},
    "sealed_at": datetime.now(UTC),
}  # fmt: skip


def to_delivered(database: Database, account: AccountKeys) -> UUID:
    with database.transaction() as session:
        made = a_termination(session, account.id, Step.PURGE)
        for following, values in (
            (Stage.GRACE, {}), (Stage.FROZEN, {"frozen_at": datetime.now(UTC)}), (Stage.EXPORTING, {}),
            (Stage.SEALED, SEALED),
            (Stage.DELIVERED, {"delivered_at": datetime.now(UTC), "delivered_by": "download"}),
        ):  # fmt: skip
            session.execute(update(Termination).where(Termination.id == made.id).values(stage=following, **values))
        session.execute(text("UPDATE tenure.accounts SET status = 'frozen'"))
        return made.id


def test_a_cancel_that_races_the_purge_has_one_winner(database: Database, ports: Ports) -> None:
    """Never a purge of what was taken back, never an account that comes back without its data (T3)."""
    ports = replace(ports, quiet=timedelta(hours=1))
    made: dict[UUID, UUID] = {}
    for number in range(12):
        with database.transaction() as session:
            account = an_account(session, ref=f"leaving-{number}")
            a_contact(session, account, email="ada@acme.example", name="Ada")
            session.flush()
            session.execute(update(Account).where(Account.id == account.id).values(status="frozen"))
        made[account.id] = a_delivered_termination(ports, AccountKeys(account.id, account.ref))
    taken_back: set[UUID] = set()

    def take_back() -> None:
        # From the last one on, so that they meet.
        for account, termination in reversed(made.items()):
            try:
                with database.transaction() as session:
                    cancel(session, termination)
                taken_back.add(account)
            except Permanent as late:
                assert "cannot be taken back" in str(late)

    run(lambda: drain(PURGE, ports), lambda: drain(PURGE, ports), take_back)
    with database.connection() as connection:
        found = connection.execute(
            text("""
                SELECT account.id, account.status, termination.stage, count(contact.id) AS contacts
                  FROM tenure.accounts AS account JOIN tenure.terminations AS termination
                    ON termination.account_id = account.id
                  LEFT JOIN tenure.contacts AS contact ON contact.account_id = account.id
                 GROUP BY account.id, termination.stage""")
        ).all()
    assert {(row.id in taken_back, row.status, row.stage, row.contacts) for row in found} <= {
        (True, "active", "cancelled", 1),
        (False, "purged", "purging", 0),
    }
    assert len(found) == len(made)


def run(*works: Callable[[], object]) -> None:
    begin = threading.Barrier(len(works))

    def start(work: Callable[[], object]) -> None:
        begin.wait()
        work()

    threads = [threading.Thread(target=start, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_it_is_too_late_when_the_purge_has_begun(acme: AccountKeys, database: Database) -> None:
    made = to_delivered(database, acme)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.terminations SET stage = 'purging', purge_began_at = now()"))
    with pytest.raises(RequestRefused, match="it cannot be taken back any more"), database.transaction() as session:
        submit(session, TerminationsCancel(account="acme"))
    with pytest.raises(Permanent, match="is purging and cannot be taken back"), database.transaction() as session:
        cancel(session, made)
    assert (stage(database), steps(database)) == (("purging", None), {"purge": "pending"})


def test_what_cannot_be_cancelled_is_told_at_once(acme: AccountKeys, database: Database) -> None:
    for ref in ("acme", "nobody"):
        with pytest.raises(RequestRefused, match="no termination is under way"), database.transaction() as session:
            submit(session, TerminationsCancel(account=ref))
    with Session(database.engine) as session:
        assert session.query(JobRequest).count() == 0
