"""What collection needs of a payment provider: its words, and the port that `workers/adapters/payments/stripe.py` fills
(B20).

A payment is one attempt of ours as the provider knows it. What moved money because of it are its movements; each has an
id of the provider's that is never used twice, and so has the ledger entry that is made of it. Movements only become
more: a refund that failed is two of them, which cancel each other out, so that the ledger ends the same whatever was
seen first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from models.billing.ledger import EntryKind
from models.collection.payment import DeclineReason


@dataclass(frozen=True, slots=True)
class Order:
    """A charge that is wanted. The same key again is the same charge, for as long as the provider keeps keys."""

    key: str
    customer: str
    method: str
    currency: str
    #: Minor units.
    amount: int
    #: What the provider shows the company beside it: the invoice's number.
    description: str


@dataclass(frozen=True, slots=True)
class Decline:
    reason: DeclineReason
    #: As the provider writes it.
    code: str
    #: A hard decline: trying the same method again is of no use, or forbidden.
    is_final: bool


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that moved. `amount` is a positive number of minor units; the kind says in which direction."""

    kind: EntryKind
    id: str
    currency: str
    amount: int
    occurred_at: datetime


class Standing(StrEnum):
    CHARGED = "charged"
    DECLINED = "declined"
    PROCESSING = "processing"
    #: It will never be charged.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Payment:
    """An attempt as the provider knows it now."""

    id: str
    #: The key of its order; None where it was not made by us.
    key: str | None
    standing: Standing
    #: The charge first, where there is one.
    movements: tuple[Movement, ...] = ()
    decline: Decline | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What the provider tells of its own accord: that a payment should be looked at, and nothing else is believed."""

    id: str
    type: str
    #: None where it is about no payment.
    payment: str | None


class Unanswered(Exception):
    """The provider may or may not have charged: a time-out, a connection that broke, a 5xx (B21)."""


class NotGenuine(Exception):
    """The event was not signed by the provider, or too long ago; the text says which."""


class PaymentGateway(Protocol):
    """A payment provider. All raise `Unavailable` where it is certain that nothing was done, `Permanent` where trying
    again cannot help; only `charge` raises `Unanswered`."""

    #: What stands before its ids in the ledger: `stripe`.
    provider: str

    def charge(self, order: Order) -> Payment:
        """Charge now, without the customer being there."""

    def find(self, key: str, *, customer: str, since: datetime) -> Payment | None:
        """What became of a key that was used at `since` or later; None where the provider never heard of it."""

    def look(self, payment: str) -> Payment | None:
        """A payment with all its movements; None where there is none of that id."""

    def movements(self, since: datetime, until: datetime) -> Iterator[tuple[str, Movement]]:
        """All movements of the account at the provider that occurred in this time, each with its payment's id."""

    def read_event(self, body: bytes, signature: str, *, received_at: datetime) -> Event:
        """The event in a webhook's body that came to us then. Raises `NotGenuine`."""

    def event(self, event: str) -> Event | None:
        """The event of that id, asked from the provider; None where there is none."""

    def forget(self, customer: str) -> bool:
        """Delete a customer with its payment methods; False where there is none any more. Raises `Unavailable` also
        where it is not certain: to ask again does no harm."""

    def close(self) -> None:
        """Close connections; the next call opens them again."""
