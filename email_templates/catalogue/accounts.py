"""Messages about an account and the details recorded of it (P3.1a to c, P8.1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

import msgspec

from email_templates.catalogue.message import Message, Part


class AccountSetUp(Message, frozen=True, kw_only=True):
    """An account was set up; tells what was recorded so that mistakes are found at once (P2.1b, P8.1)."""

    name = "account-set-up"
    promise = "P3.1c"
    why_not_marketing = "It confirms what the customer has just set up and which details were recorded of it."
    unconfirmed = True

    account_name: str
    account_ref: str
    set_up_at: datetime
    currency: str
    billing_day: int

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                account_name="Luís Gonçalves Engenharia",
                account_ref="C-20931",
                set_up_at=datetime(2026, 3, 28, 23, 30, tzinfo=UTC),
                currency="EUR",
                billing_day=31,
            )
        }


class CheckReason(StrEnum):
    YEARLY = "yearly"
    BOUNCED = "bounced"
    PAYMENT_FAILED = "payment_failed"


class Person(Part, frozen=True, kw_only=True):
    """A contact of an account, as recorded."""

    name: str
    email: str


class DetailsCheck(Message, frozen=True, kw_only=True):
    """Asks whether what is recorded is still right: yearly at most, or when something suggests that it is not (E14)."""

    name = "details-check"
    promise = "P8.1"
    why_not_marketing = "It asks whether the recorded details are still right, as the privacy policy says we will."
    optional = True

    reason: CheckReason
    account_name: str
    account_ref: str
    address: tuple[str, ...]
    people: tuple[Person, ...]
    tax_id: str | None = None
    #: The address that bounced; for `bounced`, which is sent to another contact.
    unreachable: str | None = None

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        yearly = cls(
            reason=CheckReason.YEARLY,
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            address=("Lindengasse 14", "1070 Wien", "Österreich"),
            tax_id="ATU12345678",
            people=(
                Person(name="Marta Köhler", email="marta@koehler.example"),
                Person(name="Accounts payable", email="rechnung@koehler.example"),
            ),
        )
        return {
            "": yearly,
            "bounced": msgspec.structs.replace(
                yearly, reason=CheckReason.BOUNCED, unreachable="rechnung@koehler.example"
            ),
            "payment-failed": msgspec.structs.replace(yearly, reason=CheckReason.PAYMENT_FAILED, tax_id=None),
        }


class Detail(StrEnum):
    ACCOUNT_NAME = "account_name"
    ADDRESS = "address"
    TAX_ID = "tax_id"
    BILLING_DAY = "billing_day"
    PAYMENT_METHOD = "payment_method"
    CONTACT_NAME = "contact_name"
    EMAIL = "email"
    LANGUAGE = "language"
    TIME_ZONE = "time_zone"


class Change(Part, frozen=True, kw_only=True):
    """One detail before and after; an empty text where there was or is none."""

    detail: Detail
    before: str = ""
    after: str = ""


class ChangeRecipient(StrEnum):
    #: The address is as before; another detail changed.
    UNCHANGED_ADDRESS = "unchanged_address"
    NEW_ADDRESS = "new_address"
    #: It is told that something changed, and not what it became: whoever reads there may not be the customer any more.
    OLD_ADDRESS = "old_address"


class DetailsChanged(Message, frozen=True, kw_only=True):
    """Details were changed: to the old and to the new address, so that a takeover is seen at once (P8.1)."""

    name = "details-changed"
    promise = "P8.1"
    why_not_marketing = "It confirms a change of the recorded details, so that a wrong or foreign one is noticed."
    urgent = True
    resend_if_unknown = True

    recipient: ChangeRecipient
    account_name: str
    changed_at: datetime
    changes: tuple[Change, ...]

    def __post_init__(self) -> None:
        if not self.changes:
            raise ValueError("A message about changed details needs at least one change.")

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        new_address = cls(
            recipient=ChangeRecipient.NEW_ADDRESS,
            account_name="Köhler & Söhne GmbH",
            changed_at=datetime(2026, 7, 6, 9, 41, tzinfo=UTC),
            changes=(
                Change(detail=Detail.EMAIL, before="rechnung@koehler.example", after="buchhaltung@koehler.example"),
            ),
        )
        return {
            "": new_address,
            "old-address": msgspec.structs.replace(new_address, recipient=ChangeRecipient.OLD_ADDRESS),
            "billing": msgspec.structs.replace(
                new_address,
                recipient=ChangeRecipient.UNCHANGED_ADDRESS,
                changes=(
                    Change(
                        detail=Detail.ADDRESS, before="Lindengasse 14, 1070 Wien", after="Praterstraße 7, 1020 Wien"
                    ),
                    Change(detail=Detail.TAX_ID, after="ATU12345678"),
                ),
            ),
        }
