"""Messages about statements (P3.1d)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Self

import msgspec

from email_templates.catalogue.message import Message
from email_templates.figures.statement import Ageing, StatementDocument, check_sums


class StatementReady(Message, frozen=True, kw_only=True):
    """A statement was made; its PDF is attached. Amounts in minor units, signed as in `figures.statement`."""

    name = "statement-ready"
    promise = "P3.1d"
    why_not_marketing = "It is the statement of account that the contract entitles the customer to."

    statement_number: str
    account_name: str
    account_ref: str
    currency: str
    period_start: date
    period_end: date
    issued_on: date
    opening: int
    charges: int
    payments: int
    closing: int
    ageing: Ageing
    entries: int
    late_entries: int = 0

    def __post_init__(self) -> None:
        check_sums(
            self.statement_number,
            opening=self.opening,
            movements=self.charges + self.payments,
            closing=self.closing,
            ageing=self.ageing,
        )

    @classmethod
    def about(cls, document: StatementDocument) -> StatementReady:
        """The same figures as the attached PDF shows (B6)."""
        return cls(
            statement_number=document.number,
            account_name=document.account_name,
            account_ref=document.account_ref,
            currency=document.currency,
            period_start=document.period_start,
            period_end=document.period_end,
            issued_on=document.issued_on,
            opening=document.opening,
            charges=document.charges,
            payments=document.payments,
            closing=document.closing,
            ageing=document.ageing,
            entries=len(document.lines),
            late_entries=document.late_lines,
        )

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        overdue = cls(
            statement_number="ST-2026-00417",
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            currency="EUR",
            period_start=date(2026, 1, 1),
            period_end=date(2026, 1, 31),
            issued_on=date(2026, 2, 1),
            opening=45_000,
            charges=128_950,
            payments=-45_000,
            closing=128_950,
            ageing=Ageing(not_due=98_950, days_1_30=30_000),
            entries=12,
            late_entries=1,
        )
        in_credit = {"charges": 0, "payments": -60_000, "closing": -15_000, "entries": 1, "late_entries": 0}
        settled = {"charges": 0, "payments": -45_000, "closing": 0, "entries": 1, "late_entries": 0}
        return {
            "": overdue,
            "in-credit": msgspec.structs.replace(
                overdue, currency="KWD", ageing=Ageing(unapplied_credit=15_000), **in_credit
            ),
            "settled": msgspec.structs.replace(overdue, currency="JPY", ageing=Ageing(), **settled),
        }
