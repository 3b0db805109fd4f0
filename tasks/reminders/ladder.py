"""Who is to be written to at a given moment, about which invoices, and why not (B11, B14 to B18). Pure functions.

Everything that decides about reminders asks here: planning, the look at the last moment, `tenure reminders explain`
and `simulate`. They differ in what they do with the answer. Nothing is remembered about the future: whatever changes,
a due date, the terms, the policy, the next look decides anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from models.reminders.policy import ReminderLevel
from models.reminders.reminder import LetterKind
from tasks.reminders.calendar import Calendar, calendar, is_open, opening

_DAY = timedelta(days=1)
HEIGHT = {level: height for height, level in enumerate(ReminderLevel)}
#: The levels at which a customer is told that it is late.
OVERDUE = frozenset(ReminderLevel) - {ReminderLevel.UPCOMING}


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    days: int
    level: ReminderLevel
    fee: int | None = None
    fee_currency: str | None = None
    pay_within: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    steps: tuple[Step, ...]
    grace_days: int = 0
    minimum_gap_days: int = 3
    opens_at: time = time(9)
    closes_at: time = time(17)

    def day_of(self, step: Step, due_on: date) -> date:
        """The day on which a step is due: an invoice is overdue from the day after its due day and grace (B15)."""
        grace = self.grace_days if step.days > 0 else 0
        return due_on + timedelta(days=step.days + grace)


@dataclass(frozen=True, slots=True)
class Promise:
    id: UUID
    until: date
    #: What was open when it was given.
    amount: int


@dataclass(frozen=True, slots=True)
class Debt:
    """An invoice of which something is open, and what stands in the way of reminding of it."""

    invoice_id: UUID
    number: str
    due_on: date | None
    open: int
    disputed: int = 0
    #: The number of the last step that it had, in whatever ladder; 0: none.
    had: int = 0
    #: Whether a letter that said that it is late was accepted and has not bounced; whether one is under way.
    warned: bool = False
    warning: bool = False
    #: The day of the last letter that reminded of it, and that from which it was last reminded of again after a hold.
    reminded_on: date | None = None
    resumed_on: date | None = None
    paused: bool = False
    paused_until: date | None = None
    promise: Promise | None = None
    #: Whether it is being collected, or will be within a day.
    collecting: bool = False

    @property
    def owed(self) -> int:
        """What the customer is asked for: a disputed part is not (B17)."""
        return self.open - self.disputed


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer in one currency, as it stands: what its letters are written from."""

    account_id: UUID
    ref: str
    name: str
    currency: str
    zone: ZoneInfo
    country: str | None
    policy: Policy | None
    debts: tuple[Debt, ...] = ()
    #: Whether anybody who gets the bills can be written to.
    reachable: bool = True
    paused: bool = False
    paused_until: date | None = None
    #: The day of the last letter that was not withdrawn, and whether it is still under way.
    last_letter_on: date | None = None
    under_way: bool = False
    #: Fees of letters that went out, as far as they are on no invoice yet.
    fees: int = 0

    @property
    def calendar(self) -> Calendar:
        return calendar(self.country)


@dataclass(frozen=True, slots=True)
class Item:
    """An invoice in a letter, and its step; None where the letter says that its promise was broken."""

    debt: Debt
    step: Step | None = None
    fee: int = 0

    @property
    def level(self) -> ReminderLevel:
        """The tone in which it is named: that of its step, but of a first reminder where none has arrived before.

        After an outage of ours, nobody is told that we have written before, or pays for it.
        """
        assert self.step is not None  # noqa: S101 - a broken promise has no tone
        return (
            self.step.level if self.debt.warned else min(self.step.level, ReminderLevel.FIRST, key=HEIGHT.__getitem__)
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """What a customer is written to on one day."""

    kind: LetterKind
    day: date
    items: tuple[Item, ...]
    level: ReminderLevel | None = None
    pay_by: date | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """The next step of an invoice: when, in which letter, and why then; or why there is none."""

    at: datetime | None
    letter: Letter | None
    step: Step | None
    reasons: tuple[str, ...] = field(default=())


def decide(customer: Customer, now: datetime) -> Letter | None:
    """The letter that is to leave at this moment, if any: at most one a day, over all that is due (B16)."""
    policy = customer.policy
    today = now.astimezone(customer.zone).date()
    if policy is None or not is_open(now, customer.zone, policy.opens_at, policy.closes_at):
        return None
    if customer_hindrance(customer, today):
        return None
    broken = tuple(Item(debt) for debt in customer.debts if _is_broken(customer, debt, today))
    if broken:
        # Of promises for several days, one letter tells of those for the earliest; the others wait for the next.
        first = min(item.debt.promise.until for item in broken if item.debt.promise)
        chosen = tuple(item for item in broken if item.debt.promise and item.debt.promise.until == first)
        return Letter(LetterKind.PROMISE_BROKEN, today, chosen)
    items = tuple(
        Item(debt, step, _fee(step, debt, customer.currency))
        for debt in customer.debts
        if debt_hindrance(customer, debt, today) is None and (step := due_step(customer, debt, today))
    )
    return reminder(customer, today, items) if items else None


def reminder(customer: Customer, today: date, items: tuple[Item, ...]) -> Letter:
    """A letter over these invoices: as grave as the gravest of them."""
    level = max((item.level for item in items), key=HEIGHT.__getitem__)
    within = max(item.step.pay_within or 0 for item in items if item.step and item.level is level)
    pay_by = customer.calendar.business_day(today + timedelta(days=within)) if within else None
    return Letter(LetterKind.REMINDER, today, items, level, pay_by)


def customer_hindrance(customer: Customer, today: date) -> str | None:
    """Why the customer gets no letter on this day whatever it owes, as a sentence; None where it may get one."""
    if customer.policy is None:
        return "No reminder policy is the default one, and the account has none of its own."
    if not customer.reachable:
        return "No contact who gets the bills can be written to."
    if customer.under_way:
        return "An earlier letter is still under way."
    if why := customer.calendar.closed(today):
        return f"{today} is {why} there."
    if customer.last_letter_on is not None:
        free = customer.last_letter_on + timedelta(days=customer.policy.minimum_gap_days)
        if today < free:
            return f"The last letter is of {customer.last_letter_on}, and the next may follow on {free}."
    return None


def debt_hindrance(customer: Customer, debt: Debt, today: date) -> str | None:
    """Why an invoice is not reminded of on this day, as a sentence; None where it may be."""
    return next(_debt_hindrances(customer, debt, today), None)


def _debt_hindrances(customer: Customer, debt: Debt, today: date) -> Iterator[str]:
    if debt.open <= 0:
        yield "It is settled."
    if debt.due_on is None:
        yield "It has no due date, and what has none is never reminded of."
    if debt.owed <= 0:
        yield "All that is open of it is disputed."
    for paused, until, what in (
        (customer.paused, customer.paused_until, "the account's reminders"),
        (debt.paused, debt.paused_until, "its reminders"),
    ):
        if paused and (until is None or today <= until):
            yield f"Somebody paused {what} {f'until {until}' if until else 'until further notice'}."
    if debt.promise is not None:
        over = promise_ends(customer, debt, debt.promise)
        if today <= over:
            yield f"Payment is promised for {debt.promise.until}, which is waited for until {over}."
        else:
            yield "The customer is first told that its promise was broken."
    if debt.collecting:
        yield "Its payment is being collected."


def promise_ends(customer: Customer, debt: Debt, promise: Promise) -> date:
    """The last day of the pause that a promise makes: its date and a business day (B17).

    One for a day before the due date is not broken before that: until then, nobody is late.
    """
    return customer.calendar.next_business_day(max(promise.until, debt.due_on or promise.until))


def delay(customer: Customer, debt: Debt, today: date) -> int:
    """By how many days pauses and promises have moved the ladder of an invoice, from the next step on (B17).

    What they held back after the due day goes on where it stopped: the next step is due when the hold is over, and
    those after it keep their distance.
    """
    resumed_on = _resumed_on(customer, debt, today)
    if customer.policy is None or debt.due_on is None or resumed_on is None or resumed_on <= debt.due_on:
        return 0
    steps = customer.policy.steps
    following = next((step for step in steps if step.number > debt.had and step.days > 0), None)
    if following is None:
        return 0
    goes_on = resumed_on
    if debt.reminded_on is not None and debt.reminded_on >= goes_on:
        had = next((step.days for step in steps if step.number == debt.had), 0)
        goes_on = debt.reminded_on + timedelta(days=following.days - max(had, 0))
    return max(0, (goes_on - customer.policy.day_of(following, debt.due_on)).days)


def _resumed_on(customer: Customer, debt: Debt, today: date) -> date | None:
    """The day from which it may be reminded of again, after the last hold that is over."""
    over = [until + _DAY for until in (customer.paused_until, debt.paused_until) if until is not None and until < today]
    if debt.resumed_on is not None:
        over.append(debt.resumed_on)
    return max(over, default=None)


def due_step(customer: Customer, debt: Debt, today: date) -> Step | None:
    """The highest step that is due of those that the invoice has not had (B14); steps that it skips are gone.

    A final one needs an accepted letter before it that said that the invoice is late. What is only upcoming is not
    said any more when the due day is over.
    """
    policy = customer.policy
    if policy is None or debt.due_on is None:
        return None
    moved = timedelta(days=delay(customer, debt, today))
    due = [
        step
        for step in policy.steps
        if step.number > debt.had
        and policy.day_of(step, debt.due_on) + moved <= today
        and (step.level is not ReminderLevel.FINAL or debt.warned)
        and (step.level is not ReminderLevel.UPCOMING or today <= debt.due_on)
    ]
    return due[-1] if due else None


def _is_broken(customer: Customer, debt: Debt, today: date) -> bool:
    if debt.promise is None or today <= promise_ends(customer, debt, debt.promise):
        return False
    return debt_hindrance(customer, replace(debt, promise=None), today) is None


def _fee(step: Step, debt: Debt, currency: str) -> int:
    agreed = step.fee is not None and step.fee_currency == currency
    return step.fee or 0 if agreed and Item(debt, step).level is step.level else 0


def after(customer: Customer, letter: Letter) -> Customer:
    """The customer as it stands when the letter was accepted, and nothing else has happened."""
    told = {item.debt.invoice_id: item for item in letter.items}

    def moved(debt: Debt) -> Debt:
        item = told.get(debt.invoice_id)
        if item is None:
            return debt
        if item.step is None:
            return replace(debt, promise=None, resumed_on=letter.day)
        return replace(debt, had=item.step.number, warned=debt.warned or item.level in OVERDUE, reminded_on=letter.day)

    return replace(
        customer,
        debts=tuple(moved(debt) for debt in customer.debts),
        last_letter_on=letter.day,
        fees=customer.fees + sum(item.fee for item in letter.items),
    )


def forecast(customer: Customer, now: datetime, until: date) -> Iterator[tuple[datetime, Letter, Customer]]:
    """The letters that leave from now to the local day `until`, each with its time and the customer as it then stands.

    As if all were accepted, nobody paid and nothing else happened. What is under way now is taken to be accepted.
    """
    policy = customer.policy
    if policy is None:
        return
    customer = replace(
        customer,
        under_way=False,
        debts=tuple(replace(debt, warned=debt.warned or debt.warning) for debt in customer.debts),
    )
    day = now.astimezone(customer.zone).date()
    while day <= until and any(_has_a_future(policy, debt) for debt in customer.debts):
        opens = opening(day, customer.zone, policy.opens_at, policy.closes_at)
        if opens is not None:
            moment = max(opens, now)
            letter = decide(customer, moment)
            if letter is not None:
                yield moment, letter, customer
                customer = after(customer, letter)
        day += _DAY


def _has_a_future(policy: Policy, debt: Debt) -> bool:
    return debt.promise is not None or any(step.number > debt.had for step in policy.steps)


def explain(customer: Customer, debt: Debt, now: datetime, *, days: int = 800) -> Next:
    """The next letter that names this invoice, and why it leaves then; or why none does."""
    today = now.astimezone(customer.zone).date()
    for at, letter, then in forecast(customer, now, today + timedelta(days=days)):
        item = next((item for item in letter.items if item.debt.invoice_id == debt.invoice_id), None)
        if item is not None:
            return Next(at, letter, item.step, tuple(_reasons(then, item, letter.day, today, debt)))
    return Next(None, None, None, tuple(_obstacles(customer, debt, today)))


def _reasons(customer: Customer, item: Item, day: date, today: date, debt: Debt) -> Iterator[str]:
    policy = customer.policy
    assert policy is not None and debt.due_on is not None  # noqa: S101 - a letter was written by it
    if item.step is None:
        assert debt.promise is not None  # noqa: S101 - this letter is about it
        yield f"It was promised for {debt.promise.until}, and is not paid; reminders go on after this letter."
        wanted = promise_ends(customer, debt, debt.promise) + _DAY
    else:
        step, moved = item.step, delay(customer, item.debt, day)
        planned = policy.day_of(step, debt.due_on)
        wanted = planned
        grace = f" and {policy.grace_days} days of grace" if policy.grace_days and step.days > 0 else ""
        yield (
            f'Step {step.number} ("{step.level}") of the policy "{policy.name}" is due on {planned}: '
            f"{_distance(step.days)} the due date of {debt.due_on}{grace}."
        )
        if moved:
            yield f"That is {moved} {'day' if moved == 1 else 'days'} later, since it was held back for a while."
        between = [each for each in policy.steps if debt.had < each.number < step.number]
        if skipped := [str(each.number) for each in between if each.level in OVERDUE]:
            yield f"Step {', '.join(skipped)} is left out: only the highest that is due is sent."
    said: set[str] = set()
    looked = max(wanted, today)
    while looked < day:
        why = debt_hindrance(customer, debt, looked) if item.step else None
        why = why or customer_hindrance(customer, looked)
        if why and why not in said:
            said.add(why)
            yield why
        looked += _DAY


def _distance(days: int) -> str:
    if days == 0:
        return "on"
    return f"{abs(days)} {'day' if abs(days) == 1 else 'days'} {'after' if days > 0 else 'before'}"


def _obstacles(customer: Customer, debt: Debt, today: date) -> Iterator[str]:
    standing = debt_hindrance(customer, debt, today)
    if standing:
        yield standing
    if customer.policy is None or not customer.reachable:
        yield customer_hindrance(customer, today) or ""
        return
    left = [step for step in customer.policy.steps if step.number > debt.had]
    if not left and not standing:
        yield f'It had the last step of the policy "{customer.policy.name}": from here on a person decides.'
    elif left and all(step.level is ReminderLevel.FINAL for step in left) and not debt.warned:
        yield "The final reminder needs an earlier one that was accepted and has not bounced."
    elif not standing:
        yield f'No step of the policy "{customer.policy.name}" is due within the time that was looked at.'
