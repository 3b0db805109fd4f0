"""Messages about the end of a contract: the record of all data, and their deletion (P6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Self

import msgspec

from email_templates.catalogue.message import Message, Part, check_page


class Retained(Part, frozen=True, kw_only=True):
    """What a law makes us keep (T8). `what` and `law` are an operator's own words."""

    what: str
    law: str
    until: date


_INVOICES = Retained(what="Invoices of the last seven years", law="§ 132 BAO", until=date(2033, 12, 31))


class ContractEnding(Message, frozen=True, kw_only=True):
    """A contract is about to end; says what will happen to the data, and when."""

    name = "contract-ending"
    promise = "P6.1"
    why_not_marketing = "It tells the customer when the contract ends and what then happens to their data."
    needs_final_check = True
    resend_if_unknown = True

    account_name: str
    account_ref: str
    #: The last day of the contract.
    ends_on: date
    #: From this day on, data are deleted.
    deleted_from: date
    retained: tuple[Retained, ...] = ()

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                account_name="Köhler & Söhne GmbH",
                account_ref="C-10417",
                ends_on=date(2026, 12, 31),
                deleted_from=date(2027, 1, 31),
            )
        }


class TerminationConfirmed(Message, frozen=True, kw_only=True):
    """A termination was received: until when it can be taken back, and what follows (T3)."""

    name = "termination-confirmed"
    promise = "P6.1"
    why_not_marketing = "It confirms the termination that the customer gave notice of and says what follows."
    urgent = True
    resend_if_unknown = True

    account_name: str
    account_ref: str
    requested_at: datetime
    #: Until then it can be taken back; None where there is no such time.
    cancel_until: datetime | None
    retained: tuple[Retained, ...] = ()

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        in_grace = cls(
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            requested_at=datetime(2026, 11, 2, 14, 5, tzinfo=UTC),
            cancel_until=datetime(2026, 11, 16, 14, 5, tzinfo=UTC),
            retained=(_INVOICES,),
        )
        return {"": in_grace, "at-once": msgspec.structs.replace(in_grace, cancel_until=None, retained=())}


class ExportReady(Message, frozen=True, kw_only=True):
    """The record of all data can be fetched from a page of our own (T18)."""

    name = "export-ready"
    promise = "P6.1"
    why_not_marketing = "It hands over the record of their data that the customer is promised at the contract's end."
    urgent = True
    resend_if_unknown = True

    account_name: str
    account_ref: str
    #: The path of the page on our own site.
    page: str
    available_until: datetime
    files: int
    records: int
    #: Bytes.
    size: int
    #: Of the archive's manifest, in hexadecimal; what was fetched can be compared with it.
    sha256: str

    def __post_init__(self) -> None:
        check_page(self.page)

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        large = cls(
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            page="/exports/01978f2c-6e5a-7c31-9d0e-5b8f3f6a2d10",
            available_until=datetime(2026, 12, 16, 14, 5, tzinfo=UTC),
            files=37,
            records=1_204_388,
            size=2_483_000_000,
            sha256="9f2feb0f1ef425b292f2f94bdbb4b2bff62b6f7ea3e9a0f6a0f5b8b9d8e4c7a1",
        )
        return {"": large, "small": msgspec.structs.replace(large, files=1, records=12, size=18_400)}


class ExportReminder(Message, frozen=True, kw_only=True):
    """The record was not fetched yet, and its time runs out (T2)."""

    name = "export-reminder"
    promise = "P6.1"
    why_not_marketing = "It warns that the record of the customer's own data will soon be gone for good."
    needs_final_check = True
    urgent = True
    resend_if_unknown = True

    account_name: str
    account_ref: str
    page: str
    available_until: datetime
    #: No other follows.
    last: bool = False

    def __post_init__(self) -> None:
        check_page(self.page)

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        first = cls(
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            page="/exports/01978f2c-6e5a-7c31-9d0e-5b8f3f6a2d10",
            available_until=datetime(2026, 12, 16, 14, 5, tzinfo=UTC),
        )
        return {"": first, "last": msgspec.structs.replace(first, last=True)}


class PurgeCompleted(Message, frozen=True, kw_only=True):
    """Everything is deleted; the certificate says so without personal data (T25)."""

    name = "purge-completed"
    promise = "P6.1"
    why_not_marketing = "It certifies to the customer that all of their data have been deleted."
    resend_if_unknown = True

    account_ref: str
    completed_at: datetime
    records: int
    files: int
    certificate_number: str
    #: Of the certificate, in hexadecimal.
    sha256: str
    retained: tuple[Retained, ...] = ()

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        whole = cls(
            account_ref="C-10417",
            completed_at=datetime(2026, 12, 17, 2, 40, tzinfo=UTC),
            records=1_204_388,
            files=812,
            certificate_number="PC-2026-00019",
            sha256="4c1d27a6f9b0e3852d6f7c8a9b1e0d3f5a7c9e2b4d6f8a1c3e5b7d9f0a2c4e68",
        )
        return {"": whole, "retained": msgspec.structs.replace(whole, retained=(_INVOICES,))}
