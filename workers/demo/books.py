"""The ledger of one customer over several months: what it was charged, what it paid, and how late (B1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from email_templates.language.currencies import minor_digits
from workers.demo.countries import PRICES


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger entry to be; `late` where it became known after the statement of its period was made."""

    kind: str
    currency: str
    amount: int
    description: str
    occurred_at: datetime
    recorded_at: datetime
    due_on: date | None
    external_ref: str
    late: bool = False


#: A plan's name and its price a month in euros.
PLANS = (("Starter", 49), ("Team", 190), ("Business", 620), ("Enterprise", 2_400))
#: How customers pay, and how often each manner is met with.
MANNERS = ("prompt", "slow", "in part", "stopped", "in advance")
MANNER_WEIGHTS = (52, 20, 10, 8, 10)

_EXTRAS = (
    ("Additional seats, 3", 27.0),
    ("Additional seats, 12", 96.0),
    ("Storage beyond the plan, 120 GB", 14.4),
    ("Storage beyond the plan, 2 TB", 181.5),
    ("API calls beyond the plan, 410,000", 32.8),
    ("Priority support", 75.0),
)
_ABROAD = (
    ("On-site training, two days", 1_850.0),
    ("Domain registrations", 64.9),
    ("Data import by our partner", 720.0),
    ("Hardware key, 10 pieces", 312.5),
)


def price(euros: float, currency: str) -> int:
    """What costs so many euros, in minor units of `currency`, as a price list would say it."""
    rate, step = PRICES[currency]
    minor = euros * rate * float(10 ** minor_digits(currency))
    return max(1, round(minor / step)) * step


class Books:
    """Writes one customer's entries up to the moment `until`; every number comes from `random`."""

    def __init__(self, random: Random, zone: str, until: datetime) -> None:
        self._random = random
        self._zone = ZoneInfo(zone)
        self._until = until
        self.entries: list[Entry] = []

    def subscription(self, plan: str, euros: float, currency: str, dates: list[date], manner: str) -> None:
        """A charge at each billing date, sometimes more beside it, and the payments that manner makes of them."""
        random = self._random
        terms = random.choice((14, 14, 30))
        for number, day in enumerate(dates):
            total = self._charge(f"{plan} plan, {day:%B %Y}", price(euros, currency), currency, day, terms)
            if random.random() < 0.45:
                what, extra = random.choice(_EXTRAS)
                later = day + timedelta(days=random.randint(1, 20))
                total += self._charge(what, price(extra, currency), currency, later, terms)
            self._settle(total, currency, day, terms, manner, months_left=len(dates) - number)
            if random.random() < 0.07:
                when = day + timedelta(days=random.randint(8, 24))
                self._add("credit", -max(1, total // 20), "Credit for an interruption of service", currency, when)
            if random.random() < 0.02:
                when = day + timedelta(days=random.randint(15, 26))
                self._add("refund", max(1, total // 10), "Refund of a seat given up", currency, when)
        if manner == "in advance":
            self._add("payment", -price(euros * 3, currency), "Payment in advance, thank you", currency, dates[-1])

    def abroad(self, currency: str, dates: list[date]) -> None:
        """Now and then something in a second currency, which is never netted with the first (B1)."""
        random = self._random
        for day in sorted(random.sample(dates, k=min(len(dates), random.randint(2, 3)))):
            what, euros = random.choice(_ABROAD)
            later = day + timedelta(days=random.randint(2, 22))
            amount = self._charge(what, price(euros, currency), currency, later, 30)
            if random.random() < 0.6:
                self._pay(amount, currency, later + timedelta(days=random.randint(9, 40)))

    def learn_late(self, currency: str, amount: int, day: date, known: datetime) -> None:
        """A payment that came to another bank account, and was found weeks later."""
        self._add("payment", -amount, "Payment to our former account, thank you", currency, day, known=known)

    def _settle(self, total: int, currency: str, day: date, terms: int, manner: str, *, months_left: int) -> None:
        random = self._random
        if manner == "stopped" and months_left <= 3:
            return
        if manner == "slow":
            self._pay(total, currency, day + timedelta(days=terms + random.randint(6, 45)))
        elif manner == "in part":
            self._pay(max(1, total * 3 // 5), currency, day + timedelta(days=terms + random.randint(-4, 4)))
        else:
            self._pay(total, currency, day + timedelta(days=max(2, terms - random.randint(1, 11))))

    def _charge(self, description: str, amount: int, currency: str, day: date, terms: int) -> int:
        self._add("charge", amount, description, currency, day, due_on=day + timedelta(days=terms))
        return amount

    def _pay(self, amount: int, currency: str, day: date) -> None:
        way = self._random.choice(("Payment by transfer, thank you", "Payment by card, thank you"))
        self._add("payment", -amount, way, currency, day)

    def _add(
        self,
        kind: str,
        amount: int,
        description: str,
        currency: str,
        day: date,
        *,
        due_on: date | None = None,
        known: datetime | None = None,
    ) -> None:
        # Any minute of the local day: also those near midnight, where one zone's today is another's yesterday.
        moment = datetime.combine(day, time(), self._zone) + timedelta(minutes=self._random.randrange(4, 1436))
        occurred = moment.astimezone(UTC)
        if occurred >= self._until:
            return
        self.entries.append(
            Entry(
                kind=kind,
                currency=currency,
                amount=amount,
                description=description,
                occurred_at=occurred,
                recorded_at=known or min(occurred + timedelta(minutes=self._random.randint(1, 50)), self._until),
                due_on=due_on,
                external_ref=f"{kind}-{len(self.entries) + 1}",
                late=known is not None,
            )
        )
