"""What an operator sees and does with the `tenure` command: real commands, real exit codes."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tasks.requests.inbound import accept
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account


def a_failed_request(database: Database, ports: Ports) -> UUID:
    """A request that cannot be met yet: its account has nothing to state."""
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        a_contact(session, account)
        made = session.execute(text("""SELECT tenure.request('statements.send', '{"account": "acme"}')""")).scalar_one()
    drain(HANDLE, ports)
    return UUID(str(made))


def test_a_failed_row_is_found_understood_mended_and_retried(database: Database, ports: Ports, tenure: Run) -> None:
    row = a_failed_request(database, ports)

    listed = tenure("work", "list")
    assert listed.returncode == 1
    assert str(row) in listed.stdout
    assert "nothing to state" in listed.stdout

    shown = json.loads(tenure("work", "show", str(row), "--json").stdout)
    assert (shown["table"], shown["state"], shown["attempts"]) == ("job_requests", "failed", 1)
    assert "no closed period with entries" in shown["last_error"]
    assert shown["retries"].startswith("after 2 seconds, then twice as long each time, at most 1 hour; 8 attempts in ")

    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
                SELECT id, 'charge', 'EUR', 100, 'Service', period_start + 9 FROM tenure.accounts""")
        )
    retried = tenure("work", "retry", str(row))
    assert (retried.returncode, retried.stdout) == (0, "1 row due again.\n")
    assert drain(HANDLE, ports) == {"handled": 1}
    assert tenure("work", "list").returncode == 0


def test_all_failed_rows_of_a_table_are_retried_at_once(database: Database, ports: Ports, tenure: Run) -> None:
    a_failed_request(database, ports)
    assert tenure("work", "retry", "--failed", "job_requests").stdout == "1 row due again.\n"
    assert tenure("work", "retry", "--failed", "job_requests").stdout == "0 rows due again.\n"


def test_a_cancelled_row_stays_and_says_why(database: Database, ports: Ports, tenure: Run) -> None:
    row = a_failed_request(database, ports)
    assert tenure("work", "cancel", str(row), "--why", "Not needed any more.").returncode == 0
    shown = json.loads(tenure("work", "show", str(row), "--json").stdout)
    assert (shown["state"], shown["last_error"]) == ("cancelled", "Not needed any more.")
    assert tenure("work", "list").returncode == 0
    again = tenure("work", "cancel", str(row))
    assert again.returncode == 1
    assert "was left as it is" in again.stderr


def test_what_was_quarantined_is_seen_and_replayed_when_its_reason_is_mended(
    database: Database, ports: Ports, tenure: Run
) -> None:
    assert tenure("work", "quarantine").stdout == "The quarantine is empty.\n"
    accept("sessions.revoke", (), {"account": "acme"}, message_id="early", ports=ports)
    kept = tenure("work", "quarantine")
    assert kept.returncode == 1
    assert "sessions.revoke" in kept.stdout
    (row,) = json.loads(tenure("work", "quarantine", "--json").stdout)
    assert "not known" in row["reason"]

    refused = tenure("work", "quarantine", "--replay", row["id"])
    assert refused.returncode == 1
    assert refused.stderr.startswith("tenure: still refused:")

    with database.transaction() as session:
        an_account(session, ref="acme")
    assert tenure("work", "quarantine", "--replay", row["id"]).returncode == 0
    assert tenure("work", "quarantine").returncode == 0
    assert drain(HANDLE, ports) == {"handled": 1}


def test_a_paused_job_is_shown_and_claims_nothing_until_it_is_resumed(
    database: Database, ports: Ports, tenure: Run
) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
        session.execute(text("""SELECT tenure.request('sessions.revoke', '{"account": "acme"}')"""))
    assert tenure("work", "pause", "requests.handle").returncode == 0
    assert "requests.handle: paused" in tenure("work", "list").stdout
    assert drain(HANDLE, ports) == {"handled": 0}
    assert tenure("work", "resume", "requests.handle").returncode == 0
    assert drain(HANDLE, ports) == {"handled": 1}


def test_a_request_by_hand_is_a_row(database: Database, tenure: Run) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
    made = tenure("request", "sessions.revoke", "account=acme", "--dedupe-key", "by-hand")
    assert made.returncode == 0
    again = tenure("request", "sessions.revoke", "account=acme", "--dedupe-key", "by-hand")
    assert again.stdout == made.stdout
    with database.connection() as connection:
        assert connection.execute(text("SELECT source FROM tenure.job_requests")).scalar_one() == "operator"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("work", "show", str(uuid4())), "there is no work row"),
        (("work", "list", "--table", "nonsense"), "there is no work table 'nonsense'"),
        (("work", "retry"), "name the rows"),
        (("work", "pause", "nonsense"), "there is no job 'nonsense'"),
        (("work", "quarantine", "--replay", str(uuid4())), "there is no quarantined message"),
        (("request", "nonsense"), 'there is no request "nonsense"'),
        (("request", "sessions.revoke", "acme"), "is not an argument"),
        (("work", "show", "nonsense"), "is not a valid UUID"),
    ],
)
def test_wrong_use_is_a_sentence_and_exit_code_2(tenure: Run, arguments: tuple[str, ...], said: str) -> None:
    run = tenure(*arguments)
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("arguments", [("work", "list"), ("policy",), ("health", "relay"), ("migrate",)])
def test_a_database_that_is_not_there_is_one_line(tenure: Run, arguments: tuple[str, ...]) -> None:
    run = tenure(*arguments, TENURE_DATABASE_URL="postgresql://tenure@127.0.0.1:1/tenure")
    assert run.returncode == 1
    assert run.stderr.startswith("tenure: PostgreSQL (TENURE_DATABASE_URL) cannot be used")
    assert len(run.stderr.splitlines()) == 1


def test_health_of_what_does_not_run_is_said(tenure: Run) -> None:
    """What does its work is healthy in tests/acceptance/test_compose.py (W15)."""
    for part, said in {"relay": "no relay is connected", "beat": "no Beat has ticked", "worker": "no worker"}.items():
        run = tenure("health", part)
        assert (run.returncode, said in run.stderr) == (1, True), run.stderr
