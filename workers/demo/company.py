"""A believable company's customers, drawn from a seed: the same every time on the same day.

Everything is dated back from today: the periods that have closed are last month's and, for most customers, those of
the month before, so that a demo on any day finds the same work to do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from random import Random

from workers.demo.books import MANNER_WEIGHTS, MANNERS, PLANS, Books, Entry
from workers.demo.calendar import billing_dates, settled
from workers.demo.countries import COUNTRIES, City, Country

SEED = 1901
#: How many billing dates back the ledgers go.
MONTHS = 6
#: Of a hundred sessions, how many are over 24 hours old; and how many sessions a customer has.
EXPIRED_PERCENT = 40
SESSIONS_EACH = 40

_LETTERS = {"ß": "ss", "ø": "o", "ł": "l", "æ": "ae", "đ": "d", "ı": "i", "ä": "ae", "ö": "oe", "ü": "ue", "å": "aa"}


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    email: str
    language: str
    receives_statements: bool


@dataclass(frozen=True, slots=True)
class Customer:
    """An account with all that hangs on it. `first_period` begins the first period that no statement was made of."""

    ref: str
    name: str
    address: Sequence[str]
    country: str
    currency: str
    time_zone: str
    billing_day: int
    first_period: date
    since: date
    plan: str
    people: Sequence[Person]
    entries: Sequence[Entry]

    @property
    def has_late_entries(self) -> bool:
        return any(entry.late for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Company:
    today: date
    customers: Sequence[Customer]

    @property
    def words(self) -> frozenset[str]:
        """Every name and e-mail address: what must never be seen in a message, a log or Flower (P1.3)."""
        people = [person for customer in self.customers for person in customer.people]
        return frozenset(
            [customer.name for customer in self.customers]
            + [person.name for person in people]
            + [person.email for person in people]
        )


def make(accounts: int, today: date, seed: int = SEED) -> Company:
    """So many customers as of `today`."""
    random = Random(seed)  # noqa: S311 - a believable company, not a secret
    days = [day for day in (1, 1, 1, 5, 10, 12, 15, 17, 20, 24, 28, 31) if settled(day, today)]
    countries = random.choices(COUNTRIES, [country.weight for country in COUNTRIES], k=accounts)
    # However few they are, the first ones show a German, a Gulf, a Japanese and a Portuguese customer.
    for number, code in enumerate(("DE", "KW", "JP", "PT")[:accounts]):
        countries[number] = next(country for country in COUNTRIES if country.code == code)
    maker = _Maker(random, today)
    return Company(
        today, [maker.customer(number, country, random.choice(days)) for number, country in enumerate(countries)]
    )


class _Maker:
    def __init__(self, random: Random, today: date) -> None:
        self._random = random
        self._today = today
        self._taken: set[str] = set()

    def customer(self, number: int, country: Country, billing_day: int) -> Customer:
        random = self._random
        city = random.choice(country.cities)
        ref = f"C-{10_000 + 7 * number}"
        dates = billing_dates(billing_day, self._today, MONTHS + 1)
        # The last date began the period that is open; the two before it began those that have closed. The first
        # customer has a late entry, which needs a statement before the last.
        two_closed = random.random() < 0.75 or number == 0
        first_period = dates[-3] if two_closed else dates[-2]
        plan, euros = random.choices(PLANS, (45, 30, 18, 7))[0]
        until = datetime.combine(self._today, time(), UTC) - timedelta(hours=2)
        books = Books(random, city.time_zone, until)
        books.subscription(plan, euros, country.currency, dates, random.choices(MANNERS, MANNER_WEIGHTS)[0])
        if random.random() < 0.22:
            books.abroad(country.second_currency, dates)
        if two_closed and (number == 0 or random.random() < 0.05):
            found = until - timedelta(hours=random.randint(1, 20))
            day = first_period + timedelta(days=random.randint(2, 20))
            books.learn_late(country.currency, max(1, books.entries[0].amount // 2), day, found)
        return Customer(
            ref=ref,
            name=self._firm(country, city),
            address=country.address.format(
                street=random.choice(country.streets),
                number=random.randint(1, 180),
                postcode=city.postcode,
                city=city.name,
            ).split("|"),
            country=country.code,
            currency=country.currency,
            time_zone=city.time_zone,
            billing_day=billing_day,
            first_period=first_period,
            since=dates[0],
            plan=plan,
            people=_people(random, country, ref),
            entries=sorted(books.entries, key=lambda entry: entry.recorded_at),
        )

    def _firm(self, country: Country, city: City) -> str:
        """A name that no other customer has."""
        random = self._random
        for attempt in count():
            (family, latin), (other, _) = random.sample(country.family, k=2)
            name = random.choice(country.firms).format(
                family=family,
                other=other,
                latin=latin.capitalize(),
                given=random.choice(country.given)[0],
                trade=random.choice(country.trades),
                city=city.name.partition(",")[0],
            )
            # Where the list is used up, as a register of companies does it.
            name = f"{name} {random.randint(2, 10 ** (attempt // 10))}" if attempt > 20 else name
            if name not in self._taken:
                break
        self._taken.add(name)
        return name


def _people(random: Random, country: Country, ref: str) -> Sequence[Person]:
    people: list[Person] = []
    for position in range(2 if random.random() < 0.35 else 1):
        (given, given_latin), (family, family_latin) = random.choice(country.given), random.choice(country.family)
        name = f"{family} {given}" if country.family_first else f"{given} {family}"
        people.append(
            Person(
                name=name,
                # One domain a customer: two of the same name are never one address.
                email=f"{_ascii(given_latin)}.{_ascii(family_latin)}{position or ''}@{ref.lower()}.example",
                language=random.choice(country.languages),
                receives_statements=position == 0 or random.random() < 0.3,
            )
        )
    return people


def _ascii(name: str) -> str:
    """A name as it stands in an e-mail address."""
    spelt = "".join(_LETTERS.get(letter, letter) for letter in unicodedata.normalize("NFC", name.lower()))
    return re.sub(r"[^a-z0-9]+", "", unicodedata.normalize("NFKD", spelt))
