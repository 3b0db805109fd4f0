"""`tenure terminate`: asked for, shown, refused and taken back in sentences (T3, T28)."""

from __future__ import annotations

import json
from datetime import date

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.terminating import stage, steps

pytestmark = pytest.mark.clock("2026-11-22 12:00")


@pytest.fixture
def acme(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme", name="Acme")
        a_contact(session, account, email="ada@acme.example")


def test_a_contract_is_ended_now_and_its_contacts_are_told(acme: None, database: Database, tenure: Run) -> None:
    done = tenure("terminate", "acme", "--grace", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "of acme is under way; its contacts are told." in done.stdout
    assert "tenure terminate cancel acme" in done.stdout
    assert (stage(database), steps(database)) == (("requested", None), {"begin": "pending"})
    with database.connection() as connection:
        row = connection.execute(
            text("""
                SELECT requested_by, cancel_until - requested_at = interval '3 days' AS grace,
                       (SELECT array_agg(message) FROM tenure.email_messages) AS messages FROM tenure.terminations""")
        ).one()
    assert row == ("operator", True, ["termination-confirmed"])


def test_a_contract_that_still_runs_ends_with_its_last_day_where_the_customer_is(
    acme: None, database: Database, tenure: Run
) -> None:
    done = tenure("terminate", "start", "acme", "--ends-on", "2031-03-31", "--json")
    told = json.loads(done.stdout)
    # Midnight in Berlin, on the first day of summer time's first full month.
    assert told["ends_at"] == "2031-03-31T22:00:00Z"
    assert steps(database) == {"begin": "pending", "announce": "pending"}
    with database.connection() as connection:
        due = dict(connection.execute(text("SELECT step, due_at::date FROM tenure.termination_steps")).all())
    assert due == {"begin": date(2031, 3, 31), "announce": date(2031, 3, 17)}


def test_what_cannot_be_is_told_in_a_sentence_and_changes_nothing(acme: None, database: Database, tenure: Run) -> None:
    unknown = tenure("terminate", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("tenure: There is no account nobody")
    assert tenure("terminate", "show", "acme").stderr == "tenure: No termination of acme is known.\n"
    assert tenure("terminate", "cancel", "acme").stderr == "tenure: No termination of acme is known.\n"
    assert tenure("terminate", "acme").returncode == 0
    again = tenure("terminate", "acme")
    assert again.returncode == 1
    assert "The account's termination was asked for already: " in again.stderr and "Traceback" not in again.stderr
    assert tenure("terminate", "acme", "--grace", "-1").returncode == 2
    assert tenure("terminate", "acme", "--ends-on", "31.3.2031").returncode == 2
    assert steps(database) == {"begin": "pending"}


def test_it_is_shown_step_by_step_and_taken_back_once(
    acme: None, database: Database, ports: Ports, tenure: Run
) -> None:
    tenure("terminate", "acme")
    drain(ADVANCE, ports)
    shown = tenure("terminate", "show", "acme")
    assert shown.returncode == 0
    assert "of acme: grace" in shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines()[3:]] == [["begin", "done"], ["freeze", "pending"]]
    told = json.loads(tenure("terminate", "show", "acme", "--json").stdout)
    assert (told["stage"], [step["step"] for step in told["steps"]]) == ("grace", ["begin", "freeze"])

    assert tenure("terminate", "cancel", "acme").stdout == (
        "The termination of acme is taken back: the account is as it was.\n"
    )
    assert stage(database) == ("cancelled", None)
    again = tenure("terminate", "cancel", "acme")
    assert (again.returncode, again.stderr) == (1, "tenure: The termination was taken back already.\n")


def test_a_dry_run_tells_and_changes_nothing(acme: None, database: Database, tenure: Run) -> None:
    seen = tenure("terminate", "acme", "--dry-run")
    assert "tenure.contacts" in seen.stdout and "dry run, nothing is changed" in seen.stdout
    told = json.loads(tenure("terminate", "--dry-run", "--json", "acme").stdout)
    counted = {store["name"]: store["count"] for store in told["stores"]}
    assert (counted["tenure.accounts"], counted["tenure.contacts"], counted["tenure.invoices"]) == (1, 1, 0)
    assert steps(database) == {}
    assert tenure("terminate", "nobody", "--dry-run").returncode == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TENURE_EXPORT_REMINDERS": "soon"}, "TENURE_EXPORT_REMINDERS are days before the end"),
        ({"TENURE_EXPORT_REMINDERS": "31"}, "TENURE_EXPORT_REMINDERS must name at least one day"),
        ({"TENURE_EXPORT_REMINDERS": " "}, "TENURE_EXPORT_REMINDERS must name at least one day"),
        ({"TENURE_GRACE_DAYS": "-1"}, "TENURE_GRACE_DAYS cannot be negative"),
    ],
)
def test_terms_that_make_no_sense_stop_a_command_at_start(tenure: Run, settings: dict[str, str], said: str) -> None:
    done = tenure("terminate", "show", "acme", **settings)
    assert done.returncode == 2
    assert said in done.stderr
