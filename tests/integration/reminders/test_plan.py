"""Planning reminders: one letter a customer, currency and day; each invoice and step once; and what comes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from models.base.unit_of_work import Database
from models.mail.email_message import EmailMessage
from models.work import row as work
from tasks.client.requests import RemindersDispute, RemindersPause, RemindersPromise, RemindersResume, Request, submit
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tasks.reminders.plan import plan
from tasks.requests.handle import HANDLE
from tests.support.rows.reminding import STANDARD, a_debtor, a_policy, an_invoice, letters, pay, reminded, run
from tests.support.servers.mail_server import DROP, MailServer
from tests.support.time.clock import Clock

pytestmark = pytest.mark.clock("2027-06-09 08:00")

#: A Wednesday in Berlin, ten o'clock.
TEN = datetime(2027, 6, 9, 8, tzinfo=UTC)
TODAY = date(2027, 6, 9)
DAY = timedelta(days=1)
DUE = TODAY - 5 * DAY


@pytest.fixture(autouse=True)
def standard(clock: Clock, database: Database) -> None:
    clock.set(TEN)
    a_policy(database)


def a_day(clock: Clock, ports: Ports, moment: datetime) -> dict[str, int]:
    """It is `moment`: what is due is planned, sent, and settled."""
    clock.set(moment)
    counts = plan(ports)
    drain(SEND, ports)
    plan(ports)
    return counts


def ask(database: Database, ports: Ports, request: Request) -> str | None:
    """Make a request and have it handled; why it failed."""
    with database.transaction() as session:
        asked = submit(session, request)
    drain(HANDLE, ports)
    (row,) = run(database, "SELECT last_error FROM tenure.job_requests WHERE id = :id", id=asked)
    return str(row.last_error) if row.last_error else None


def test_one_letter_a_customer_currency_and_day(clock: Clock, database: Database, server_ports: Ports) -> None:
    first = a_debtor(database, due_on=DUE)
    second = an_invoice(database, "acme", due_on=DUE - 8 * DAY)
    third = an_invoice(database, "acme", due_on=DUE, currency="USD")
    an_invoice(database, "acme", due_on=TODAY + 10 * DAY)
    a_debtor(database, "other", due_on=DUE, contacts=2)
    assert a_day(clock, server_ports, TEN) == {"planned": 3}
    sent = letters(database)
    said = Counter((row.context["account_ref"], row.context["currency"]) for row in sent)
    assert said == {("acme", "EUR"): 1, ("acme", "USD"): 1, ("other", "EUR"): 2}
    assert {row.state for row in sent} == {"done"}
    (euros,) = [
        row.context for row in sent if row.context["account_ref"] == "acme" and row.context["currency"] == "EUR"
    ]
    assert [each["number"] for each in euros["invoices"]] == [second, first]
    assert (euros["level"], euros["total"]) == ("first", 20_000)
    assert reminded(database, "acme") == [(second, 3, "first"), (first, 2, "first"), (third, 2, "first")]
    assert plan(server_ports) == {"planned": 0}


def test_nothing_is_planned_by_night_nor_on_holidays(clock: Clock, database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=date(2027, 4, 20))
    for moment in (
        datetime(2027, 4, 30, 5, tzinfo=UTC),
        datetime(2027, 4, 30, 15, 1, tzinfo=UTC),
        datetime(2027, 5, 1, 9, tzinfo=UTC),
        datetime(2027, 5, 2, 9, tzinfo=UTC),
    ):
        clock.set(moment)
        assert plan(server_ports) == {"planned": 0}
    clock.set(datetime(2027, 5, 3, 7, 1, tzinfo=UTC))
    assert plan(server_ports) == {"planned": 1}


def test_racing_planners_write_each_letter_once(database: Database, server_ports: Ports) -> None:
    for number in range(12):
        a_debtor(database, f"acme-{number}", due_on=DUE)
    with ThreadPoolExecutor(6) as pool:
        planned = sum(counts["planned"] for counts in pool.map(lambda _: plan(server_ports), range(6)))
    planned += plan(server_ports)["planned"]
    assert planned == 12
    assert len(letters(database)) == len(reminded(database)) == 12


def test_a_planner_that_saw_what_another_one_wrote_a_moment_later_writes_nothing(
    database: Database, server_ports: Ports
) -> None:
    """The unique index on customer, currency and day holds where the locks do not."""
    number = a_debtor(database, due_on=DUE)
    run(
        database,
        """
        INSERT INTO tenure.reminder_letters (account_id, currency, kind, local_day, level)
        SELECT id, 'EUR', 'reminder', :today, 'first' FROM tenure.accounts""",
        today=TODAY,
    )
    # Nobody has its copies: it is withdrawn at once, and its day is free.
    assert plan(server_ports) == {"planned": 1, "withdrawn": 1}
    assert reminded(database) == [(number, 2, "first")]


def test_the_whole_ladder_with_its_fees(clock: Clock, database: Database, server_ports: Ports) -> None:
    steps = [
        {**step, "fee": 300 * place, "fee_currency": "EUR"} if place > 1 else step
        for place, step in enumerate(STANDARD)
    ]
    a_policy(database, steps)
    number = a_debtor(database, due_on=date(2027, 6, 14))
    day = TEN
    while day < TEN + 60 * DAY:
        a_day(clock, server_ports, day)
        day += DAY
    assert [
        (row.local_day, row.context["level"], row.context["fees"], row.context["total"]) for row in letters(database)
    ] == [
        (date(2027, 6, 11), "upcoming", 0, 10_000),
        (date(2027, 6, 17), "first", 0, 10_000),
        (date(2027, 6, 24), "second", 600, 10_600),
        (date(2027, 7, 5), "final", 1_500, 11_500),
    ]
    assert letters(database)[-1].context["pay_by"] == "2027-07-15"
    charged = run(
        database,
        """
        SELECT amount, description FROM tenure.ledger_entries
         WHERE external_ref LIKE 'reminder-fee:%' ORDER BY sequence""",
    )
    assert charged == [(600, f"Reminder fee for invoice {number}"), (900, f"Reminder fee for invoice {number}")]
    assert {row.settled_at is not None for row in letters(database)} == {True}


def test_a_fee_is_charged_once_and_only_when_the_letter_was_accepted(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    a_policy(database, [{"days": 1, "level": "first", "fee": 500, "fee_currency": "EUR"}])
    a_debtor(database, due_on=DUE, contacts=2)
    assert plan(server_ports) == {"planned": 1}
    assert plan(server_ports) == {"planned": 0}
    fees = "SELECT count(*) FROM tenure.ledger_entries WHERE external_ref LIKE 'reminder-fee:%'"
    assert run(database, fees) == [(0,)]
    drain(SEND, server_ports)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: plan(server_ports), range(4)))
    assert run(database, fees) == [(1,)]
    assert len(server.accepted) == 2


def test_a_fee_that_the_next_invoice_has_is_not_asked_for_twice(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    a_policy(
        database,
        [{"days": 1, "level": "first", "fee": 500, "fee_currency": "EUR"}, {"days": 10, "level": "second"}],
    )
    a_debtor(database, due_on=DUE)
    a_day(clock, server_ports, TEN)
    an_invoice(database, "acme", due_on=TODAY + 2 * DAY, amount=100)
    (row,) = run(database, "SELECT total FROM tenure.invoices ORDER BY series_number DESC LIMIT 1")
    assert row.total == 600
    a_day(clock, server_ports, TEN + 6 * DAY)
    latest = letters(database)[-1].context
    # The new invoice is late, too, and costs a fee of its own.
    assert (latest["fees"], latest["total"]) == (500, 10_000 + 600 + 500)


def test_ten_days_of_outage_cost_nobody_more_than_one_letter(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    warned = a_debtor(database, "warned", due_on=TODAY - 3 * DAY)
    second = a_debtor(database, "second", due_on=TODAY + 3 * DAY)
    several = [a_debtor(database, "several", due_on=TODAY - 2 * DAY)]
    several += [an_invoice(database, "several", due_on=TODAY + day * DAY) for day in (0, 2, 4, 6)]
    a_day(clock, server_ports, TEN)
    assert reminded(database, "warned") == [(warned, 2, "first")]
    before = len(server.accepted)

    # Of what was planned, nothing can be sent; and then nobody plans.
    server.script["connect"] = [DROP] * 50
    clock.set(TEN + DAY)
    plan(server_ports)
    drain(SEND, server_ports)
    server.script.clear()
    clock.set(TEN + 12 * DAY)
    for _ in range(4):
        drain(SEND, server_ports)
        plan(server_ports)
    recipients = [row.to_address for row in letters(database) if row.state == "done"][before:]
    assert len(recipients) == len(set(recipients)) == 3
    assert reminded(database, "warned")[1:] == [(warned, 3, "second")]
    assert reminded(database, "second")[-1:] == [(second, 2, "first")]
    # The day after, and until the gap is over, nobody is written to.
    clock.set(TEN + 13 * DAY)
    assert plan(server_ports) == {"planned": 0}
    days = [row.local_day for row in letters(database) if row.state == "done" and "several" in row.to_address]
    assert all(later - earlier >= 3 * DAY for earlier, later in pairwise(days))


def test_no_final_notice_without_an_earlier_letter_that_arrived(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    number = a_debtor(database, due_on=TODAY - 40 * DAY)
    a_day(clock, server_ports, TEN)
    assert reminded(database) == [(number, 3, "first")]
    run(
        database,
        """
        INSERT INTO tenure.delivery_events (email_message_id, kind, occurred_at)
        SELECT id, 'bounced', now() FROM tenure.email_messages""",
    )
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 0}
    run(database, "DELETE FROM tenure.delivery_events")
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 1}
    assert reminded(database)[1:] == [(number, 4, "final")]


def test_a_bounce_of_the_earlier_letter_stops_a_final_one_at_the_last_moment(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    a_debtor(database, due_on=TODAY - 40 * DAY)
    a_day(clock, server_ports, TEN)
    clock.set(TEN + 5 * DAY)
    assert plan(server_ports) == {"planned": 1}
    run(
        database,
        """
        INSERT INTO tenure.delivery_events (email_message_id, kind, occurred_at)
        SELECT id, 'bounced', now() FROM tenure.email_messages WHERE state = 'done'""",
    )
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}


def test_whoever_cannot_be_reached_uses_up_no_step(clock: Clock, database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=DUE)
    run(database, "INSERT INTO tenure.suppressions (address, reason) VALUES ('acme-1@customer.example', 'bounce')")
    assert plan(server_ports) == {"planned": 0}
    run(database, "UPDATE tenure.suppressions SET lifted_at = now(), lifted_why = 'Back.'")
    assert plan(server_ports) == {"planned": 1}


def test_a_changed_due_date_replans(clock: Clock, database: Database, server_ports: Ports) -> None:
    number = a_debtor(database, due_on=DUE)
    plan(server_ports)
    run(database, "UPDATE tenure.open_items SET due_on = :day WHERE invoice_id IS NOT NULL", day=TODAY + 4 * DAY)
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert plan(server_ports) == {"planned": 0, "withdrawn": 1}
    assert a_day(clock, server_ports, TEN + DAY) == {"planned": 1}
    assert reminded(database) == [(number, 1, "upcoming")]


def test_another_policy_replans(clock: Clock, database: Database, server_ports: Ports) -> None:
    number = a_debtor(database, due_on=DUE)
    plan(server_ports)
    mild = a_policy(database, [{"days": 8, "level": "first"}], name="mild", is_default=False)
    run(database, "UPDATE tenure.accounts SET reminder_policy_id = :mild", mild=mild)
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert a_day(clock, server_ports, TEN) == {"planned": 0, "withdrawn": 1}
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 1}
    assert reminded(database) == [(number, 1, "first")]


def test_an_invoice_without_a_due_date_is_never_reminded_of(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    a_debtor(database, due_on=None)
    for days in (0, 30, 400):
        assert a_day(clock, server_ports, TEN + days * DAY) == {"planned": 0}


def test_a_promise_is_waited_for_told_as_broken_and_goes_on_at_the_same_level(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    number = a_debtor(database, due_on=DUE)
    a_day(clock, server_ports, TEN)
    # For a Friday: until Monday.
    assert ask(database, server_ports, RemindersPromise(account="acme", until=date(2027, 6, 18))) is None
    pay(database, "acme", 4_000)
    for days in (6, 9, 12):
        assert a_day(clock, server_ports, TEN + days * DAY) == {"planned": 0}
    assert a_day(clock, server_ports, TEN + 13 * DAY) == {"planned": 1}
    broken = letters(database)[-1]
    assert (broken.message, broken.state, broken.local_day) == ("promise-broken", "done", date(2027, 6, 22))
    assert (broken.context["promised"], broken.context["received"]) == (10_000, 4_000)
    assert run(database, "SELECT outcome, ended_at IS NOT NULL FROM tenure.reminder_holds") == [("broken", True)]
    assert a_day(clock, server_ports, TEN + 16 * DAY) == {"planned": 1}
    assert reminded(database) == [(number, 2, "first"), (number, 3, "second")]
    # The final one keeps its distance of ten days.
    assert a_day(clock, server_ports, TEN + 25 * DAY) == {"planned": 0}
    assert a_day(clock, server_ports, TEN + 26 * DAY) == {"planned": 1}
    assert reminded(database)[2:] == [(number, 4, "final")]


def test_a_promise_that_is_kept_is_said_nothing_of(clock: Clock, database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=DUE)
    assert ask(database, server_ports, RemindersPromise(account="acme", until=date(2027, 6, 18))) is None
    pay(database, "acme", 10_000)
    assert a_day(clock, server_ports, TEN + 13 * DAY) == {"planned": 0}
    assert run(database, "SELECT outcome FROM tenure.reminder_holds") == [("kept",)]
    # Its money is taken back: that is another story, and the promise stays kept.
    pay(database, "acme", 10_000, kind="chargeback")
    assert a_day(clock, server_ports, TEN + 14 * DAY) == {"planned": 1}
    assert letters(database)[-1].message == "payment-reminder"


def test_a_promise_that_is_kept_at_the_last_moment_withdraws_the_letter_about_it(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    a_debtor(database, due_on=DUE)
    ask(database, server_ports, RemindersPromise(account="acme", until=date(2027, 6, 18)))
    clock.set(TEN + 13 * DAY)
    assert plan(server_ports) == {"planned": 1}

    def at_rcpt(_content: bytes) -> str:
        pay(database, "acme", 10_000)
        return "250 ok"

    server.script["RCPT"] = [at_rcpt]
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert server.contents == []
    plan(server_ports)
    assert run(database, "SELECT outcome FROM tenure.reminder_holds") == [("kept",)]


def test_a_letter_about_a_broken_promise_that_did_not_leave_is_written_again(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    a_debtor(database, due_on=DUE)
    ask(database, server_ports, RemindersPromise(account="acme", until=date(2027, 6, 18)))
    clock.set(TEN + 13 * DAY)
    plan(server_ports)
    clock.set(TEN + 14 * DAY)
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert a_day(clock, server_ports, TEN + 14 * DAY) == {"planned": 1, "withdrawn": 1}
    assert [(row.message, row.state) for row in letters(database)] == [
        ("promise-broken", "cancelled"),
        ("promise-broken", "done"),
    ]


def test_a_dispute_of_a_line_keeps_that_part_out(clock: Clock, database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=None)
    number = an_invoice(database, "acme", due_on=DUE, charges=3)
    assert ask(database, server_ports, RemindersDispute(account="acme", invoice=number, lines="1,3")) is None
    a_day(clock, server_ports, TEN)
    assert letters(database)[-1].context["total"] == 10_000
    assert ask(database, server_ports, RemindersResume(account="acme", invoice=number, only="dispute")) is None
    a_day(clock, server_ports, TEN + 6 * DAY)
    assert letters(database)[-1].context["total"] == 30_000


def test_a_pause_of_an_account_or_an_invoice(clock: Clock, database: Database, server_ports: Ports) -> None:
    number = a_debtor(database, due_on=DUE)
    other = an_invoice(database, "acme", due_on=DUE)
    assert ask(database, server_ports, RemindersPause(account="acme")) is None
    assert a_day(clock, server_ports, TEN) == {"planned": 0}
    assert ask(database, server_ports, RemindersPause(account="acme", invoice=other, until=TODAY + 3 * DAY)) is None
    assert ask(database, server_ports, RemindersResume(account="acme")) is None
    assert a_day(clock, server_ports, TEN) == {"planned": 1}
    assert reminded(database) == [(number, 2, "first")]
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 1}
    # Each goes on from where its own pause has held it.
    assert reminded(database)[1:] == [(other, 2, "first")]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (RemindersPromise(account="acme", until=date(2027, 6, 8)), "2027-06-08 is past: it is 2027-06-09 there."),
        (
            RemindersPromise(account="acme", until=date(2029, 6, 8)),
            "The promise is for 2029-06-08: choose a day that is at most 366 days from now.",
        ),
        (RemindersPause(account="acme", until=date(2027, 6, 8)), "2027-06-08 is past: it is 2027-06-09 there."),
        (RemindersPause(account="acme", invoice="INV-9"), "The account has no invoice 'INV-9'."),
        (RemindersDispute(account="acme", invoice="INV-9"), "The account has no invoice 'INV-9'."),
        (
            RemindersDispute(account="acme", invoice="INV-000001", lines="all"),
            "'all' are no lines: write their numbers on the invoice, such as 1,3.",
        ),
        (
            RemindersDispute(account="acme", invoice="INV-000001", lines="1,7"),
            "The invoice INV-000001 has no line 7.",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    database: Database, server_ports: Ports, request_: Request, why: str
) -> None:
    a_debtor(database, due_on=DUE)
    assert ask(database, server_ports, request_) == why


def test_a_promise_of_what_is_settled_is_refused(database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=DUE)
    pay(database, "acme", 10_000)
    asked = RemindersPromise(account="acme", until=date(2027, 6, 18))
    assert ask(database, server_ports, asked) == "Nothing is open that could be promised."


def test_a_customer_who_pays_by_itself_is_reminded_only_when_nothing_is_tried_any_more(
    clock: Clock, database: Database, server_ports: Ports
) -> None:
    a_debtor(database, due_on=TODAY)
    run(
        database,
        """
        INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind)
        SELECT id, 'cus_1', 'pm_1', 'card' FROM tenure.accounts""",
    )
    assert a_day(clock, server_ports, TEN - 3 * DAY) == {"planned": 0}
    run(
        database,
        """
        INSERT INTO tenure.collection_attempts
               (account_id, invoice_id, method_id, number, local_day, currency, state, outcome, asked_at, amount,
                decline_reason, next_attempt_on, finished_at)
        SELECT account.id, invoice.id, method.id, 1, :today, 'EUR', 'done', 'declined', now(), 10000,
               'not_enough_money', CAST(:today AS date) + 5, now()
          FROM tenure.accounts AS account, tenure.invoices AS invoice, tenure.payment_methods AS method""",
        today=TODAY,
    )
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 0}
    run(database, "UPDATE tenure.collection_attempts SET next_attempt_on = NULL")
    assert a_day(clock, server_ports, TEN + 5 * DAY) == {"planned": 1}


def test_a_time_zone_that_nobody_but_postgresql_knows_holds_up_no_other(
    database: Database, server_ports: Ports
) -> None:
    a_debtor(database, "odd", due_on=DUE, time_zone="UTC+3")
    a_debtor(database, "fine", due_on=DUE)
    assert plan(server_ports) == {"planned": 1}


def test_a_frozen_account_is_not_written_to(database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=DUE)
    run(database, "UPDATE tenure.accounts SET status = 'frozen'")
    assert plan(server_ports) == {"planned": 0}
    with pytest.raises(Exception, match="nothing is written for it any more"):
        run(
            database,
            """
            INSERT INTO tenure.reminder_letters (account_id, currency, kind, local_day, level)
            SELECT id, 'EUR', 'reminder', :today, 'first' FROM tenure.accounts""",
            today=TODAY,
        )


def test_a_cancelled_letter_that_somebody_retries_stays_withdrawn(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    a_debtor(database, due_on=DUE)
    plan(server_ports)
    ask(database, server_ports, RemindersPause(account="acme"))
    drain(SEND, server_ports)
    plan(server_ports)
    (letter,) = letters(database)
    with database.connection() as connection:
        assert work.retry(connection, EmailMessage, [letter.id])
    ask(database, server_ports, RemindersResume(account="acme"))
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert letters(database)[0].last_error == "The letter was withdrawn."
    assert plan(server_ports)["planned"] == 1


def test_many_customers_are_planned_in_batches_and_one_statement_each(
    database: Database, server_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.reminders.plan.BATCH", 7)
    for number in range(20):
        a_debtor(database, f"acme-{number}", due_on=DUE)
    assert plan(server_ports) == {"planned": 20}
    stopped = replace(server_ports, stopping=lambda: True)
    a_debtor(database, "late", due_on=DUE)
    assert plan(stopped) == {"planned": 0}
    assert run(database, "SELECT sum(value) FROM tenure.counters WHERE task = 'reminders.plan'") == [(20,)]


def test_a_reminder_counts_once_whatever_is_written_behind_our_back(database: Database, server_ports: Ports) -> None:
    a_debtor(database, due_on=DUE)
    plan(server_ports)
    with pytest.raises(Exception, match="uq_reminders_invoice_step"):
        run(
            database,
            """
            INSERT INTO tenure.reminders (account_id, letter_id, invoice_id, step, level)
            SELECT account_id, letter_id, invoice_id, step, level FROM tenure.reminders""",
        )


def test_the_policy_command_says_whether_reminders_leave(
    clock: Clock, database: Database, server_ports: Ports, tenure: Callable[..., Any]
) -> None:
    def said() -> dict[str, str]:
        found = json.loads(tenure("policy", "--json").stdout)
        (line,) = [each for each in found if each["clause"].startswith("Reminders: once")]
        return {"verdict": line["verdict"], "figure": line["figure"]}

    a_debtor(database, due_on=DUE)
    assert said()["verdict"] == "broken"
    assert said()["figure"].endswith("1 due for an hour and not written")
    a_day(clock, server_ports, TEN)
    assert said() == {
        "verdict": "kept",
        "figure": "1 letters sent since yesterday, 0 of them the second of a day, 0 not on their day; "
        "0 due for an hour and not written",
    }
    run(database, "UPDATE tenure.email_messages SET committing_at = committing_at + interval '1 day'")
    assert said()["verdict"] == "broken"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (RemindersResume(account="acme", only="holiday"), "'holiday' cannot be ended: write pause, promise, dispute"),
        (RemindersResume(account="acme", only="dispute"), "A dispute is always of an invoice: give its number."),
        (RemindersResume(account="acme", invoice="INV-999999"), "The account has no invoice 'INV-999999'."),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_a_sentence(
    database: Database, server_ports: Ports, wrong: RemindersResume, why: str
) -> None:
    a_debtor(database, due_on=DUE)
    assert (ask(database, server_ports, wrong) or "").startswith(why)


def test_an_account_whose_promises_are_taken_back_is_reminded_again(
    database: Database, server_ports: Ports, clock: Clock
) -> None:
    numbers = [a_debtor(database, due_on=DUE), an_invoice(database, "acme", due_on=DUE)]
    ask(database, server_ports, RemindersPromise(account="acme", until=TODAY + 9 * DAY))
    assert a_day(clock, server_ports, TEN) == {"planned": 0}
    assert ask(database, server_ports, RemindersResume(account="acme", only="pause")) is None
    assert a_day(clock, server_ports, TEN) == {"planned": 0}
    assert ask(database, server_ports, RemindersResume(account="acme", only="promise")) is None
    assert a_day(clock, server_ports, TEN) == {"planned": 1}
    assert [number for number, _, _ in reminded(database)] == numbers
