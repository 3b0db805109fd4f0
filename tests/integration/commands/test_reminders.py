"""`tenure reminders`: what an operator sees and does (B19)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from models.base.unit_of_work import Database
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tasks.reminders.plan import plan
from tests.support.rows.reminding import a_debtor, a_policy, an_invoice, pay, run
from tests.support.time.clock import Clock

pytestmark = pytest.mark.clock("2027-06-09 08:00")

#: A Wednesday in Berlin, ten o'clock.
TEN = datetime(2027, 6, 9, 8, tzinfo=UTC)
TODAY = date(2027, 6, 9)
Run = Callable[..., Any]


@pytest.fixture
def number(clock: Clock, database: Database) -> str:
    clock.set(TEN)
    a_policy(database)
    return a_debtor(database, due_on=TODAY - timedelta(days=1))


def test_explain_says_when_which_step_and_why(tenure: Run, database: Database, number: str) -> None:
    said = tenure("reminders", "explain", number)
    assert said.returncode == 0
    assert said.stdout == (
        f"{number} of acme: 100.00 EUR open\n"
        "Next: step 2, in the words of the reminder “first”, Friday, 2027-06-11, 09:00 in Europe/Berlin\n"
        '  – Step 2 ("first") of the policy "standard" is due on 2027-06-11: 3 days after the due date of 2027-06-08.\n'
    )
    # Of another invoice, there is a letter today: the gap after it ends on a Saturday.
    other = an_invoice(database, "acme", due_on=TODAY)
    as_json = json.loads(tenure("reminders", "explain", number, "--json").stdout)
    assert (as_json["next_at"], as_json["step"]) == ("2027-06-14T09:00:00+02:00", 2)
    assert as_json["together_with"] == [other]
    assert as_json["reasons"][1:] == [
        "The last letter is of 2027-06-09, and the next may follow on 2027-06-12.",
        "2027-06-12 is a Saturday there.",
        "2027-06-13 is a Sunday there.",
    ]


def test_explain_shows_what_was_sent_and_why_nothing_follows(
    tenure: Run, clock: Clock, database: Database, ports: Ports, number: str
) -> None:
    clock.set(TEN + timedelta(days=2))
    plan(ports)
    drain(SEND, ports)
    said = tenure("reminders", "explain", number).stdout
    assert "2027-06-11  2     first  done" in said
    pay(database, "acme", 10_000)
    assert "No reminder will leave.\n  – It is settled.\n" in tenure("reminders", "explain", number).stdout


def test_explain_of_what_there_is_not(tenure: Run, number: str) -> None:
    said = tenure("reminders", "explain", "INV-9")
    assert (said.returncode, said.stderr) == (1, "tenure: there is no invoice 'INV-9'.\n")


def test_simulate_lists_the_letters_that_are_to_come(tenure: Run, database: Database, number: str) -> None:
    a_debtor(database, "other", due_on=TODAY, amount=500)
    said = tenure("reminders", "simulate", "40")
    assert said.returncode == 0
    assert said.stdout.splitlines()[1:] == [
        "2027-06-09 08:00  other    upcoming  1           5.00 EUR",
        "2027-06-11 07:00  acme     first     1         100.00 EUR",
        "2027-06-14 07:00  other    first     1           5.00 EUR",
        "2027-06-18 07:00  acme     second    1         100.00 EUR",
        "2027-06-21 07:00  other    second    1           5.00 EUR",
        "2027-06-28 07:00  acme     final     1         100.00 EUR",
        "2027-06-29 07:00  other    final     1           5.00 EUR",
        "7 letters in 40 days, if nobody pays and nothing else happens.",
    ]
    only = json.loads(tenure("reminders", "simulate", "40", "--account", "acme", "--json").stdout)
    assert [each["level"] for each in only] == ["first", "second", "final"]
    assert tenure("reminders", "simulate", "1", "--account", "acme").stdout == "Nobody will be reminded.\n"


def test_pause_of_an_invoice_and_of_an_account(tenure: Run, database: Database, number: str) -> None:
    said = tenure("reminders", "pause", number, "--until", "2027-07-01")
    assert said.stdout == f"The reminders of invoice {number} are paused up to and with 2027-07-01.\n"
    assert "until 2027-07-01" in tenure("reminders", "explain", number).stdout
    assert (
        tenure("reminders", "pause", "acme").stdout
        == "The reminders of account acme are paused until further notice.\n"
    )
    assert "No reminder will leave." in tenure("reminders", "explain", number).stdout
    tenure("reminders", "pause", number, "--over")
    assert tenure("reminders", "pause", "acme", "--over").stdout == "The reminders of account acme go on.\n"
    assert run(database, "SELECT outcome FROM tenure.reminder_holds") == [("lifted",), ("lifted",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "tenure: there is no invoice of that number and no account of that ref.\n"),
        (["acme", "--until", "2027-06-08"], "tenure: 2027-06-08 is past: it is 2027-06-09 there.\n"),
    ],
)
@pytest.mark.usefixtures("number")
def test_a_pause_that_cannot_be(tenure: Run, arguments: list[str], said: str) -> None:
    done = tenure("reminders", "pause", *arguments)
    assert (done.returncode, done.stderr) == (2, said)
