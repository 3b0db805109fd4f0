"""The fence on Tenure's own tables: for a frozen or purged account the database takes nothing, whoever writes (T9)."""

from __future__ import annotations

import threading

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from models.base.base import Base
from models.base.unit_of_work import Database
from models.customers.contract import Contract
from models.data_map.map import AccountKeys, belongs, own_map, written_out
from models.termination.termination import Step
from models.work.row import work_tables
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.rows.terminating import LONG_AGO, a_termination, stage

#: Of these only what makes and removes rows is fenced; sessions are gone when the account is frozen.
WORKS = {table.__tablename__ for table in work_tables()}
GONE = {"sessions"}
#: Brought there by the freeze itself, and by sweeps.
OURS = {"held_sessions", "held_session_keys"}


def test_every_mapped_table_has_its_fence(database: Database) -> None:
    with database.connection() as connection:
        found = {
            (row.table, row.event)
            for row in connection.execute(
                text("""
                    SELECT relname AS table, replace(tgname, 'fence_', '') AS event
                      FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
                     WHERE relnamespace = 'tenure'::regnamespace AND NOT relispartition
                       AND tgname LIKE 'fence\\_%'""")
            )
        }
    expected = set()
    for table in own_map(Base).tables:
        name = table.name.table
        if name not in {"accounts", *OURS}:
            expected.add((name, "insert"))
            expected |= {(name, "delete")} - {(each, "delete") for each in GONE}
            expected |= {(name, "update")} - {(each, "update") for each in GONE | WORKS}
    assert found == expected


REFUSED = (
    "INSERT INTO tenure.contacts (account_id, name, email) SELECT id, 'x', 'new' FROM acme",
    "UPDATE tenure.contacts SET name = 'x' WHERE account_id = (SELECT id FROM acme)",
    "UPDATE tenure.contacts SET account_id = (SELECT id FROM other) WHERE account_id = (SELECT id FROM acme)",
    "UPDATE tenure.contacts SET account_id = (SELECT id FROM acme) WHERE account_id = (SELECT id FROM other)",
    "DELETE FROM tenure.contracts WHERE account_id = (SELECT id FROM acme)",
    "INSERT INTO tenure.sessions (account_id, secret_sha256) SELECT id, sha256('') FROM acme",
    "INSERT INTO tenure.usage_events (account_id, occurred_at, action) SELECT id, now(), 'x' FROM acme",
    "INSERT INTO tenure.submitted_records (account_id, kind, external_ref, content) SELECT id, 'a', 'b', '1' FROM acme",
    "INSERT INTO tenure.job_requests (kind, args, account_id) SELECT 'x', '{}', id FROM acme",
    "INSERT INTO tenure.delivery_events (email_message_id, kind, occurred_at)"
    " SELECT id, 'sent', now() FROM tenure.email_messages WHERE account_id = (SELECT id FROM acme)",
    "DELETE FROM tenure.email_messages WHERE account_id = (SELECT id FROM acme)",
    "UPDATE tenure.accounts SET name = 'x' WHERE id = (SELECT id FROM acme)",
    "UPDATE tenure.accounts SET status = 'active' WHERE id = (SELECT id FROM acme)",
)
PASSED = (
    "INSERT INTO tenure.contacts (account_id, name, email) SELECT id, 'x', 'new' FROM other",
    "UPDATE tenure.accounts SET name = 'x' WHERE id = (SELECT id FROM other)",
    "INSERT INTO tenure.payment_events (delivery) VALUES ('x')",
)


@pytest.mark.parametrize("status", ["frozen", "purged"])
def test_what_is_written_for_a_frozen_or_purged_account_is_refused(database: Database, status: str) -> None:
    with database.transaction() as session:
        for ref in ("acme", "other"):
            account = an_account(session, ref=ref)
            contact = a_contact(session, account, email=f"{ref}@customer.example")
            session.add(Contract(account_id=account.id, plan="x", starts_on=LONG_AGO.date()))
            session.execute(
                text("""
                    INSERT INTO tenure.email_messages (account_id, contact_id, message, to_address, context, dedupe_key,
                                                       message_id)
                    VALUES (:account, :contact, 'x', 'x', '{}', :ref, :ref)"""),
                {"account": account.id, "contact": contact.id, "ref": ref},
            )
    with database.engine.connect() as connection:
        for ref in ("acme", "other"):
            connection.execute(
                text(f"CREATE TEMPORARY TABLE {ref} AS SELECT id FROM tenure.accounts WHERE ref = '{ref}'")
            )

        def attempt(statement: str) -> None:
            with connection.begin_nested() as savepoint:
                assert connection.execute(text(statement)).rowcount == 1, statement
                savepoint.rollback()

        for statement in REFUSED:
            attempt(statement)
        connection.execute(text("UPDATE tenure.accounts SET status = :to WHERE ref = 'acme'"), {"to": status})
        for statement in REFUSED:
            with pytest.raises(IntegrityError, match="nothing is written for it any more") as said:
                attempt(statement)
            assert "acme" not in str(said.value).partition("CONTEXT")[0]
        for statement in PASSED:
            attempt(statement)
        connection.execute(text("SELECT set_config('tenure.purging', id::text, true) FROM acme"))
        for statement in REFUSED:
            attempt(statement)


#: For each account.
INTO_USAGE = "INSERT INTO {} (account_id, occurred_at, action) SELECT id, {}, 'x' FROM tenure.accounts"
INTO_SESSIONS = "INSERT INTO {} (account_id, secret_sha256) SELECT id, sha256('') FROM tenure.accounts"
TIMES = ("now()", "now() - interval '5 months'")


def test_nobody_gets_past_the_fence_by_a_partition(database: Database) -> None:
    """Not by one that was there when the fence was put up, nor by one that came later."""
    with database.transaction() as session:
        an_account(session, ref="acme")
        session.execute(text(f"SELECT tenure.make_usage_partitions({TIMES[1]})"))
    with database.engine.connect() as connection:

        def part_of(insert: str) -> str:
            lies = connection.execute(text(f"{insert} RETURNING tableoid::regclass::text")).scalar_one()
            return f"tenure.{lies.removeprefix('tenure.')}"

        statements: list[str] = []
        for at in TIMES:
            usage = part_of(INTO_USAGE.format("tenure.usage_events", at))
            statements += [f"UPDATE {usage} SET action = 'y'", f"DELETE FROM {usage}", INTO_USAGE.format(usage, at)]
        statements.append(INTO_SESSIONS.format(part_of(INTO_SESSIONS.format("tenure.sessions"))))
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen'"))
        for statement in statements:
            with pytest.raises(IntegrityError, match="nothing is written for it any more"), connection.begin_nested():
                connection.execute(text(statement))


#: What a web tier does all day; `ref` is the account's.
WRITES = (
    "INSERT INTO tenure.contacts (account_id, name, email) SELECT id, 'x', gen_random_uuid() FROM account",
    "SELECT tenure.record_entry(ref, 'charge', 'EUR', 100, 'x') FROM account",
    "SELECT tenure.create_session(ref, sha256('')) FROM account",
    "SELECT tenure.request('sessions.revoke', jsonb_build_object('account', ref)) FROM account",
    "INSERT INTO tenure.usage_events (account_id, occurred_at, action) SELECT id, now(), 'x' FROM account",
    "INSERT INTO tenure.submitted_records (account_id, kind, external_ref, content)"
    " SELECT id, 'x', gen_random_uuid(), '1' FROM account",
    "UPDATE tenure.accounts SET name = name || 'x' FROM account WHERE accounts.id = account.id",
)


def count_rows(connection: Connection, account: AccountKeys) -> dict[str, int]:
    return {
        str(table.name): connection.execute(
            text(f"SELECT count(*) FROM {table.name} WHERE {written_out(belongs(table, account))}")
        ).scalar_one()
        for table in own_map(Base).tables
    }


def test_no_row_of_fifty_writers_comes_in_after_the_freeze(database: Database, database_url: str, ports: Ports) -> None:
    """Each either commits before the freeze, and is in what an export then sees, or is refused (T9)."""
    with database.transaction() as session:
        account = an_account(session, ref="acme", period_start=LONG_AGO.date())
        an_entry(session, account, 100)
        a_termination(session, account.id, Step.FREEZE, stage="requested")
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.terminations SET stage = 'grace'"))
    acme = AccountKeys(account.id, "acme")
    begin, frozen = threading.Barrier(51), threading.Event()
    outcomes: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "CREATE TEMPORARY TABLE account AS SELECT id, ref FROM tenure.accounts WHERE ref = 'acme'"
            )
            begin.wait()
            turn = number
            while not frozen.wait(0.002) or turn < number + 2 * len(WRITES):
                turn += 1
                try:
                    with connection.transaction():
                        connection.execute(WRITES[turn % len(WRITES)])
                        connection.execute(WRITES[(turn + 3) % len(WRITES)])
                    outcomes.append("written")
                except (psycopg.errors.IntegrityConstraintViolation, psycopg.errors.InvalidParameterValue) as refused:
                    assert "frozen" in str(refused) or "ledger" in str(refused), refused
                    outcomes.append("refused")
                except psycopg.errors.DeadlockDetected:
                    outcomes.append("deadlock")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(50)]
    for writer in writers:
        writer.start()
    begin.wait()
    while outcomes.count("written") < 100:
        pass
    while stage(database)[0] != "frozen":
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))
        drain(ADVANCE, ports)
    with database.connection() as connection:
        exported = count_rows(connection, acme)
    frozen.set()
    for writer in writers:
        writer.join()
    with database.connection() as connection:
        assert count_rows(connection, acme) == exported
    assert exported["tenure.sessions"] == 0
    assert exported["tenure.contacts"] > 0
    assert outcomes.count("refused") > 50
    assert outcomes.count("deadlock") < len(outcomes) / 20
