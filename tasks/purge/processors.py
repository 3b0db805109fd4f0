"""What of an account lies with parties outside: with the payment provider, and with whom the data map names (T21).

They are asked and not believed: a processor that says that it has erased is asked how much it still holds. One that
erases later than at once is asked again, while all else of the purge goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from models.data_map.map import AccountKeys, Processor
from models.termination.purge import Method, StoreKind
from tasks.failures import Permanent
from tasks.ports.context import Estate, Ports
from tasks.ports.processors import OutsideProcessor
from tasks.purge.checkpoints import Checkpoint, StaysForNow

#: How long after it was asked a processor is looked at again.
LOOK_AGAIN: Final = timedelta(minutes=15)
#: Who has not erased by then will not by itself: a month is what the law gives the company (GDPR, article 12(3)).
ERASURE_DEADLINE: Final = timedelta(days=30)


class Customers:
    """The account's customers at the payment provider, which forgets them with their cards and mandates."""

    kind = StoreKind.PROCESSOR
    name = "payment customers"
    method = Method.DELETED

    def __init__(self, provider: str, names: Sequence[str], ports: Ports) -> None:
        gateway = ports.payments
        if gateway is None or gateway.provider != provider:
            raise Permanent(
                f"The account has customers at the payment provider {provider}, which is not configured: set its key, "
                "so that they can be deleted there, then retry."
            )
        self.place = provider
        self._gateway, self._names = gateway, names

    def left(self) -> int:
        return len(self._names)

    def purge(self, checkpoint: Checkpoint) -> None:
        checkpoint.begin(lambda: 0)
        for name in self._names:
            checkpoint.elsewhere(1, lambda name=name: int(self._gateway.forget(name)))  # type: ignore[misc]
        # One that was deleted just before a crash is not deleted once more.
        checkpoint.end(removed=checkpoint.expected)


class Records:
    """What a processor of the data map holds, which it counts and erases at an address of its own."""

    kind = StoreKind.PROCESSOR
    method = Method.DELETED

    def __init__(self, processor: Processor, at: OutsideProcessor, account: AccountKeys) -> None:
        self.place = str(processor.address_from)
        self.name = processor.name
        self._at, self._account = at, account

    def left(self) -> int:
        return self._at.records(self._account)

    def purge(self, checkpoint: Checkpoint) -> None:
        checkpoint.begin(self.left)
        if there := self.left():
            checkpoint.elsewhere(there, lambda: there - self._erase(there))
        if left := self.left():
            self._wait(checkpoint, left)
        # What it erased between two looks, it erased because it was asked.
        checkpoint.end(removed=max(checkpoint.removed, checkpoint.expected or 0))

    def _erase(self, there: int) -> int:
        self._at.erase(self._account)
        return min(self.left(), there)

    def _wait(self, checkpoint: Checkpoint, left: int) -> None:
        said = f"{self.name} still holds {left:,} records of the account"
        if checkpoint.lasted > ERASURE_DEADLINE:
            raise Permanent(
                f"{said}, {ERASURE_DEADLINE.days} days after it was first asked to erase them: "
                "ask the company that runs it, then retry."
            )
        checkpoint.wait(left, f"{said}: it was asked to erase them, and is asked again.")
        raise StaysForNow(f"{said}: it was asked to erase them, and is asked again.", LOOK_AGAIN)


def customers(ports: Ports, account: AccountKeys) -> Iterator[Customers]:
    """Raises Permanent where it has some at a provider that is not configured."""
    with ports.database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT provider, array_agg(DISTINCT provider_customer ORDER BY provider_customer) AS customers
                  FROM tenure.payment_methods WHERE account_id = :account GROUP BY provider ORDER BY provider"""),
            {"account": account.id},
        ).all()
    for row in rows:
        yield Customers(row.provider, row.customers, ports)


def others(estate: Estate, account: AccountKeys) -> Iterator[Records]:
    """Raises Permanent where the address of one is not set."""
    for processor in estate.map.processors:
        if processor.address_from is not None:
            yield records(estate, processor, account)


def records(estate: Estate, processor: Processor, account: AccountKeys) -> Records:
    """Raises as `others` does."""
    if processor.name not in estate.processors:
        raise Permanent(f"The address of {processor.name}, {processor.address_from}, is not set: set it, then retry.")
    return Records(processor, estate.processors[processor.name], account)
