"""When a customer is reminded, and why not: ladders, days, hours, gaps, promises, disputes (B11, B14 to B18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_templates.catalogue.reminders import Level, PaymentReminder, PromiseBroken
from models.reminders.policy import ReminderLevel
from models.reminders.reminder import LetterKind
from tasks.reminders.calendar import calendar, is_open, opening
from tasks.reminders.ladder import Customer, Debt, Policy, Promise, Step, decide, explain, forecast
from tasks.reminders.letter import message

BERLIN = ZoneInfo("Europe/Berlin")
UPCOMING, FIRST, SECOND, FINAL = ReminderLevel

#: As Odoo's follow-up module proposes: 15, 30 and 40 days after the due date, six days between two letters.
ODOO = Policy("odoo", (Step(1, 15, FIRST), Step(2, 30, SECOND), Step(3, 40, FINAL, pay_within=8)), minimum_gap_days=6)
#: As a dunning procedure of Tryton's: levels by days overdue, with a fee from the second on.
TRYTON = Policy(
    "tryton",
    (
        Step(1, 5, FIRST),
        Step(2, 20, SECOND, fee=500, fee_currency="EUR"),
        Step(3, 40, SECOND, fee=1_000, fee_currency="EUR"),
        Step(4, 60, FINAL, fee=2_000, fee_currency="EUR", pay_within=14),
    ),
    minimum_gap_days=7,
)
DUE = date(2027, 3, 1)


def a_debt(**values: Any) -> Debt:
    return Debt(**{"invoice_id": uuid4(), "number": "INV-1", "due_on": DUE, "open": 10_000, **values})


def a_customer(*debts: Debt, **values: Any) -> Customer:
    return Customer(
        **{
            "account_id": UUID(int=1),
            "ref": "acme",
            "name": "Acme",
            "currency": "EUR",
            "zone": BERLIN,
            "country": "DE",
            "policy": ODOO,
            "debts": debts or (a_debt(),),
            **values,
        }
    )


def at(day: date, hour: int = 10, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.combine(day, time(hour), zone).astimezone(UTC)


def sent(customer: Customer, since: date = DUE, days: int = 200) -> list[tuple[date, ReminderLevel | None]]:
    """What is sent from a day on, by day and level."""
    found = forecast(customer, at(since, 0), since + timedelta(days=days))
    return [(letter.day, letter.level) for _, letter, _ in found]


def test_odoos_ladder() -> None:
    # 11 April is a Sunday... of the steps' days, 31 March is Easter Wednesday, 10 April a Saturday.
    assert sent(a_customer()) == [
        (date(2027, 3, 16), FIRST),
        (date(2027, 3, 31), SECOND),
        (date(2027, 4, 12), FINAL),
    ]


def test_trytons_procedure_and_its_fees() -> None:
    letters = list(forecast(a_customer(policy=TRYTON), at(DUE, 0), DUE + timedelta(days=100)))
    said = [message(customer, letter) for _, letter, customer in letters]
    assert [(letter.day, letter.level) for _, letter, _ in letters] == [
        (date(2027, 3, 8), FIRST),
        (date(2027, 3, 22), SECOND),
        (date(2027, 4, 12), SECOND),
        (date(2027, 4, 30), FINAL),
    ]
    assert [each.fees for each in said if isinstance(each, PaymentReminder)] == [0, 500, 1_500, 3_500]
    assert [each.total for each in said if isinstance(each, PaymentReminder)] == [10_000, 10_500, 11_500, 13_500]


def test_a_fee_is_for_invoices_in_its_own_currency() -> None:
    letters = list(forecast(a_customer(policy=TRYTON, currency="CHF"), at(DUE, 0), DUE + timedelta(days=100)))
    assert [sum(item.fee for item in letter.items) for _, letter, _ in letters] == [0, 0, 0, 0]


def test_overdue_begins_after_the_local_due_day_and_grace() -> None:
    policy = Policy("strict", (Step(1, 1, FIRST),), grace_days=2)
    for day, expected in ((DUE, None), (date(2027, 3, 3), None), (date(2027, 3, 4), FIRST)):
        letter = decide(a_customer(policy=policy), at(day))
        assert (letter and letter.level) == expected
    # In Auckland the day is over thirteen hours earlier.
    far = a_customer(policy=policy, zone=ZoneInfo("Pacific/Auckland"), country="NZ")
    assert decide(far, datetime(2027, 3, 3, 19, 59, tzinfo=UTC)) is None
    assert decide(far, datetime(2027, 3, 3, 20, 1, tzinfo=UTC)) is not None


def test_what_is_upcoming_is_said_before_the_due_day_or_not_at_all() -> None:
    policy = Policy("kind", (Step(1, -2, UPCOMING), Step(2, 10, FIRST)))
    # Two days before a Monday is a Saturday: said on the due day itself.
    assert sent(a_customer(policy=policy), DUE - timedelta(days=9), 30) == [(DUE, UPCOMING), (date(2027, 3, 11), FIRST)]
    assert sent(a_customer(policy=policy), DUE + timedelta(days=1), 30) == [(date(2027, 3, 11), FIRST)]


def test_the_leap_day_is_a_day() -> None:
    policy = Policy("leap", (Step(1, 1, FIRST), Step(2, 366 - 1, SECOND)))
    debt = a_debt(due_on=date(2028, 2, 28))
    assert sent(a_customer(debt, policy=policy), date(2028, 2, 20), 10)[0] == (date(2028, 2, 29), FIRST)
    on_it = a_debt(due_on=date(2028, 2, 29))
    assert sent(a_customer(on_it, policy=policy), date(2028, 2, 20), 400) == [
        (date(2028, 3, 1), FIRST),
        (date(2029, 2, 28), SECOND),
    ]


@pytest.mark.parametrize(
    ("country", "day", "said"),
    [
        ("DE", date(2026, 12, 25), "a holiday (Christmas Day)"),
        ("DE", date(2026, 12, 24), None),
        ("US", date(2026, 7, 3), "a holiday (Independence Day (observed))"),
        ("JP", date(2027, 5, 5), "a holiday (Children's Day)"),
        ("IL", date(2027, 6, 4), "a Friday"),
        ("IL", date(2027, 6, 6), None),
        ("DE", date(2027, 6, 6), "a Sunday"),
        (None, date(2026, 12, 25), None),
        ("XX", date(2027, 6, 5), "a Saturday"),
        ("de", date(2026, 12, 25), "a holiday (Christmas Day)"),
    ],
)
def test_business_days_are_those_of_the_country(country: str | None, day: date, said: str | None) -> None:
    assert calendar(country).closed(day) == said


@pytest.mark.parametrize(
    ("zone", "day", "opens", "expected"),
    [
        ("Europe/Berlin", date(2027, 6, 9), time(9), "2027-06-09T07:00"),
        # The clock jumps from two to three: half past two is never, three is the first that comes after it.
        ("America/New_York", date(2026, 3, 8), time(2, 30), "2026-03-08T07:00"),
        ("Africa/Cairo", date(2026, 4, 24), time(0, 15), "2026-04-23T22:00"),
        # Half past two comes twice: the first.
        ("Europe/Berlin", date(2026, 10, 25), time(2, 30), "2026-10-25T00:30"),
        ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 15), "2026-10-03T15:30"),
        # Samoa had no 30 December 2011.
        ("Pacific/Apia", date(2011, 12, 30), time(9), None),
    ],
)
def test_the_day_opens_by_the_clock_on_the_wall(zone: str, day: date, opens: time, expected: str | None) -> None:
    found = opening(day, ZoneInfo(zone), opens, time(23))
    assert (found and found.strftime("%Y-%m-%dT%H:%M")) == expected


def test_a_window_that_the_clock_jumps_over_is_none() -> None:
    assert opening(date(2026, 3, 8), ZoneInfo("America/New_York"), time(2), time(3)) is None


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    inside = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    assert [is_open(each, BERLIN, time(2), time(3)) for each in inside] == [True, True]
    assert not is_open(datetime(2026, 10, 25, 2, 30, tzinfo=UTC), BERLIN, time(2), time(3))


def test_letters_leave_in_local_business_hours_alone() -> None:
    customer = a_customer(a_debt(due_on=date(2027, 1, 4)))
    day = date(2027, 6, 9)
    hours = [hour for hour in range(24) if decide(customer, at(day, hour))]
    assert hours == list(range(9, 17))
    assert decide(customer, at(date(2027, 6, 12))) is None


def test_one_letter_over_all_invoices_as_grave_as_the_gravest() -> None:
    old = a_debt(number="INV-1", had=1, warned=True, due_on=date(2027, 2, 1))
    new = a_debt(number="INV-2", due_on=date(2027, 2, 16), open=500)
    not_yet = a_debt(number="INV-3", due_on=date(2027, 3, 1))
    letter = decide(customer := a_customer(old, new, not_yet), at(date(2027, 3, 3)))
    assert letter is not None
    assert (letter.level, [item.debt.number for item in letter.items]) == (SECOND, ["INV-1", "INV-2"])
    said = message(customer, letter)
    assert isinstance(said, PaymentReminder)
    assert (said.level, said.others, said.total) == (Level.SECOND, 1, 10_500)


def test_the_gap_between_two_letters_of_a_customer_is_kept() -> None:
    customer = a_customer(a_debt(), a_debt(due_on=date(2027, 3, 3)))
    assert [day for day, _ in sent(customer)][:3] == [date(2027, 3, 16), date(2027, 3, 22), date(2027, 3, 31)]


def test_after_an_outage_the_highest_step_is_sent_and_in_honest_words() -> None:
    late = at(date(2027, 6, 9))
    fresh = decide(a_customer(), late)
    assert fresh is not None
    # Never warned: no final notice, the highest of the others, which does not claim an earlier letter.
    assert (fresh.items[0].step, fresh.level) == (ODOO.steps[1], FIRST)
    warned = decide(a_customer(a_debt(had=1, warned=True)), late)
    assert warned is not None
    assert (warned.items[0].step, warned.level) == (ODOO.steps[2], FINAL)
    costly = decide(a_customer(policy=TRYTON), late)
    assert costly is not None
    assert (costly.items[0].step, costly.items[0].fee) == (TRYTON.steps[2], 0)


def test_a_final_notice_needs_an_earlier_one_that_arrived() -> None:
    bounced = a_customer(a_debt(had=2, warned=False))
    assert decide(bounced, at(date(2027, 6, 9))) is None
    (debt,) = bounced.debts
    assert explain(bounced, debt, at(date(2027, 6, 9))).reasons == (
        "The final reminder needs an earlier one that was accepted and has not bounced.",
    )


def test_what_has_no_due_date_is_never_reminded_of() -> None:
    assert sent(a_customer(a_debt(due_on=None)), days=1_000) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"disputed": 10_000}, "All that is open of it is disputed."),
        ({"paused": True}, "Somebody paused its reminders until further notice."),
        ({"collecting": True}, "Its payment is being collected."),
        ({"due_on": None}, "It has no due date, and what has none is never reminded of."),
        ({"open": 0}, "It is settled."),
    ],
)
def test_what_stands_in_the_way_of_an_invoice(values: dict[str, Any], why: str) -> None:
    customer = a_customer(a_debt(**values))
    assert decide(customer, at(date(2027, 6, 9))) is None
    found = explain(customer, customer.debts[0], at(date(2027, 6, 9)))
    assert (found.at, found.reasons[0]) == (None, why)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"policy": None}, "No reminder policy is the default one, and the account has none of its own."),
        ({"reachable": False}, "No contact who gets the bills can be written to."),
        ({"paused": True}, "Somebody paused the account's reminders until further notice."),
    ],
)
def test_what_stands_in_the_way_of_a_customer(values: dict[str, Any], why: str) -> None:
    customer = a_customer(**values)
    assert decide(customer, at(date(2027, 6, 9))) is None
    assert why in explain(customer, customer.debts[0], at(date(2027, 6, 9))).reasons


def test_a_disputed_part_is_not_asked_for() -> None:
    letter = decide(customer := a_customer(a_debt(disputed=4_000)), at(date(2027, 3, 16)))
    assert letter is not None
    said = message(customer, letter)
    assert isinstance(said, PaymentReminder)
    assert (said.invoices[0].still_open, said.total) == (6_000, 6_000)


def test_a_pause_ends_with_its_day() -> None:
    assert sent(a_customer(a_debt(paused=True, paused_until=date(2027, 3, 18))))[0] == (date(2027, 3, 19), FIRST)
    assert sent(a_customer(paused=True, paused_until=date(2027, 3, 18)))[0] == (date(2027, 3, 19), FIRST)


def test_a_promise_is_waited_for_until_its_day_and_a_business_day_and_then_it_goes_on_where_it_stopped() -> None:
    # Promised for a Friday: until Monday. Tuesday it is broken; the second step follows, not the third.
    debt = a_debt(had=1, warned=True, promise=Promise(uuid4(), date(2027, 4, 9), 12_000))
    customer = a_customer(debt)
    letters = list(forecast(customer, at(date(2027, 4, 1), 0), date(2027, 8, 1)))
    assert [(letter.day, letter.kind, letter.level) for _, letter, _ in letters] == [
        (date(2027, 4, 13), LetterKind.PROMISE_BROKEN, None),
        # Both steps that are left were due meanwhile: the next one, and the final one at its distance of ten days.
        (date(2027, 4, 19), LetterKind.REMINDER, SECOND),
        (date(2027, 4, 29), LetterKind.REMINDER, FINAL),
    ]
    said = message(customer, letters[0][1])
    assert isinstance(said, PromiseBroken)
    assert (said.promised, said.received, said.promised_for) == (12_000, 2_000, date(2027, 4, 9))


def test_a_pause_that_is_over_goes_on_where_it_stopped() -> None:
    # Paused from the first letter on until May: as if the time had stood still, and not straight to the final one.
    paused = a_debt(had=1, warned=True, reminded_on=date(2027, 3, 16), resumed_on=date(2027, 5, 3))
    assert sent(a_customer(paused), date(2027, 5, 3)) == [(date(2027, 5, 3), SECOND), (date(2027, 5, 13), FINAL)]
    until = a_debt(had=1, warned=True, reminded_on=date(2027, 3, 16), paused=True, paused_until=date(2027, 5, 2))
    assert sent(a_customer(until), date(2027, 3, 17)) == [(date(2027, 5, 3), SECOND), (date(2027, 5, 13), FINAL)]
    # One that was over before anything was due changes nothing.
    early = a_debt(had=1, warned=True, reminded_on=date(2027, 3, 16), resumed_on=date(2027, 2, 20))
    assert sent(a_customer(early), date(2027, 3, 17)) == sent(a_customer(a_debt(had=1, warned=True)), date(2027, 3, 17))


def test_a_promise_for_a_day_before_the_due_date_is_not_broken_before_that() -> None:
    debt = a_debt(due_on=date(2027, 9, 13), promise=Promise(uuid4(), date(2027, 4, 5), 10_000))
    assert sent(a_customer(debt), date(2027, 3, 17), 200)[0] == (date(2027, 9, 15), None)


def test_a_promise_that_is_broken_early_goes_on_at_the_same_level() -> None:
    debt = a_debt(had=1, warned=True, promise=Promise(uuid4(), date(2027, 3, 19), 10_000))
    assert sent(a_customer(debt), date(2027, 3, 17)) == [
        (date(2027, 3, 23), None),
        (date(2027, 3, 31), SECOND),
        (date(2027, 4, 12), FINAL),
    ]


def test_it_says_when_and_why() -> None:
    customer = a_customer(a_debt(had=2, warned=True), last_letter_on=date(2027, 4, 8))
    found = explain(customer, customer.debts[0], at(date(2027, 4, 9)))
    assert found.at == at(date(2027, 4, 14), 9)
    assert found.step == ODOO.steps[2]
    assert found.reasons == (
        'Step 3 ("final") of the policy "odoo" is due on 2027-04-10: 40 days after the due date of 2027-03-01.',
        "2027-04-10 is a Saturday there.",
        "2027-04-11 is a Sunday there.",
        "The last letter is of 2027-04-08, and the next may follow on 2027-04-14.",
    )


def test_it_says_that_the_ladder_is_over() -> None:
    customer = a_customer(a_debt(had=3, warned=True))
    assert explain(customer, customer.debts[0], at(date(2027, 6, 9))).reasons == (
        'It had the last step of the policy "odoo": from here on a person decides.',
    )


def test_another_policy_goes_on_after_the_steps_that_were_had() -> None:
    debt = a_debt(had=1, warned=True)
    assert sent(a_customer(debt, policy=TRYTON))[0] == (date(2027, 3, 22), SECOND)
    assert sent(a_customer(debt, policy=Policy("none", ()))) == []


LEVELS = st.sampled_from(
    [[FIRST], [FIRST, SECOND], [UPCOMING, FIRST, FINAL], [FIRST, SECOND, SECOND, FINAL], [UPCOMING]]
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    levels: Sequence[ReminderLevel] = draw(LEVELS)
    day, steps = -10, []
    for number, level in enumerate(levels, 1):
        day = draw(st.integers(-10, 0)) if level is UPCOMING else max(day, 0) + draw(st.integers(1, 30))
        steps.append(Step(number, day, level, pay_within=7 if level is FINAL else None))
    opens = draw(st.integers(0, 20))
    return Policy(
        "drawn", tuple(steps), draw(st.integers(0, 10)), draw(st.integers(1, 20)), time(opens), time(opens + 2)
    )


@st.composite
def debts(draw: st.DrawFn) -> Debt:
    disputed = draw(st.sampled_from([0, 0, 0, 4_000, 10_000]))
    promise = draw(
        st.sampled_from([None, None, Promise(uuid4(), DUE + timedelta(days=draw(st.integers(-5, 60))), 10_000)])
    )
    return a_debt(
        due_on=draw(st.one_of(st.none(), st.dates(date(2026, 12, 1), date(2027, 12, 1)))),
        disputed=disputed,
        promise=promise,
        paused=draw(st.booleans()),
        paused_until=draw(st.dates(date(2027, 1, 1), date(2027, 12, 1))),
    )


@settings(max_examples=150, deadline=None)
@given(
    policies(),
    st.lists(debts(), min_size=1, max_size=5),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo"]),
    st.sampled_from(["DE", "US", "AE", "JP", None]),
)
def test_whatever_the_policy_and_the_debts(policy: Policy, owed: list[Debt], zone: str, country: str | None) -> None:
    """At most one letter a day, gaps kept, in hours and on business days, no step twice or backwards, finals warned."""
    customer = a_customer(*owed, policy=policy, zone=ZoneInfo(zone), country=country)
    last: date | None = None
    had: dict[UUID, int] = {}
    warned: set[UUID] = set()
    for moment, letter, _ in forecast(customer, at(date(2027, 1, 1), 0), date(2028, 2, 1)):
        there = moment.astimezone(customer.zone)
        assert there.date() == letter.day
        assert policy.opens_at <= there.time() < policy.closes_at
        assert calendar(country).closed(letter.day) is None
        assert last is None or (letter.day - last).days >= policy.minimum_gap_days
        last = letter.day
        for item in letter.items:
            key = item.debt.invoice_id
            assert item.debt.due_on is not None
            assert item.debt.owed > 0
            if item.step is None:
                continue
            assert item.step.number > had.get(key, 0)
            assert letter.day >= policy.day_of(item.step, item.debt.due_on)
            assert item.level is not FINAL or key in warned
            assert item.level is UPCOMING or letter.day > item.debt.due_on + timedelta(days=policy.grace_days)
            had[key] = item.step.number
            if item.level is not UPCOMING:
                warned.add(key)
        said = message(replace(customer, debts=tuple(item.debt for item in letter.items)), letter)
        assert said.invoices
