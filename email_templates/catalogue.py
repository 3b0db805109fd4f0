"""The closed catalogue of messages (E1): what is not here cannot be sent (P3.1e).

To add a message, write a class here and a folder of its `name` beside this file, with `subject.txt`, `body.txt` and
`body.html`. Nothing else lists messages. A class's fields are what the e-mail row keeps as JSON (`write_context`) and
what the templates see; `examples` feed `tenure mail preview` and the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import msgspec

from email_templates.documents.statement import Ageing, StatementDocument, check_sums


class UnknownMessage(LookupError):
    """No message of that name is in the catalogue."""


class BadContext(ValueError):
    """The data are not what the message's context class asks for."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The context of one message to one recipient, and what is true of every such message."""

    #: The folder's name; public, and stored in e-mail rows.
    name: ClassVar[str]
    #: The promise of `policy.md` that the message serves.
    promise: ClassVar[str]
    #: Said to whoever audits P3.1e.
    why_not_marketing: ClassVar[str]
    #: Goes out before bulk mail.
    urgent: ClassVar[bool] = False
    #: About money that is owed: never offers to unsubscribe (E8).
    bill: ClassVar[bool] = False

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        """Believable contexts by variant; the variant `""` is the one that a preview shows first."""
        raise NotImplementedError(f"The message {cls.name!r} shows no example of itself.")


class StatementReady(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement was made; its PDF is attached. Amounts in minor units, signed as in `documents.statement`."""

    name = "statement-ready"
    promise = "P3.1d"
    why_not_marketing = "It is the statement of account that the contract entitles the customer to."
    bill = True

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


class AccountSetUp(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account was set up; tells what was recorded so that mistakes are found at once (P2.1b, P8.1)."""

    name = "account-set-up"
    promise = "P3.1c"
    why_not_marketing = "It confirms what the customer has just set up and which details were recorded of it."

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


class SecurityEvent(StrEnum):
    SESSIONS_SIGNED_OUT = "sessions_signed_out"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - the name of an event
    NEW_SIGN_IN = "new_sign_in"


class SecurityNotice(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something happened to the access to an account that its owner must hear of at once."""

    name = "security-notice"
    promise = "P5.1"
    why_not_marketing = "It warns the customer of a change in who can reach their data."
    urgent = True

    event: SecurityEvent
    account_name: str
    happened_at: datetime
    #: How many sessions were ended; for `sessions_signed_out`.
    sessions: int = 0
    #: As the browser or a person gave it: never trusted.
    device: str | None = None
    ip_address: str | None = None

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        happened_at = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        account = "Köhler & Söhne GmbH"
        return {
            "": cls(
                event=SecurityEvent.SESSIONS_SIGNED_OUT,
                account_name=account,
                happened_at=happened_at,
                sessions=12,
            ),
            "password-changed": cls(
                event=SecurityEvent.PASSWORD_CHANGED, account_name=account, happened_at=happened_at
            ),
            "new-sign-in": cls(
                event=SecurityEvent.NEW_SIGN_IN,
                account_name=account,
                happened_at=happened_at,
                device="Firefox 146, Linux",
                ip_address="2001:db8::7a31",
            ),
        }


class ServiceNoticeKind(StrEnum):
    MAINTENANCE = "maintenance"
    DISRUPTION = "disruption"
    RESOLVED = "resolved"


class ServiceNotice(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work on the service, or trouble with it. `topic` and `details` are an operator's own words, in one language."""

    name = "service-notice"
    promise = "P3.1e"
    why_not_marketing = "It tells customers when and how the service that they pay for will differ from normal."

    kind: ServiceNoticeKind
    topic: str
    starts_at: datetime
    ends_at: datetime | None = None
    #: Paragraphs.
    details: tuple[str, ...] = ()

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                kind=ServiceNoticeKind.MAINTENANCE,
                topic="Database upgrade",
                starts_at=datetime(2026, 5, 9, 22, 0, tzinfo=UTC),
                ends_at=datetime(2026, 5, 9, 23, 30, tzinfo=UTC),
                details=(
                    "Signing in and uploads pause while the database moves to its new version.",
                    "Background: https://status.example.org/upgrade",
                ),
            ),
            "disruption": cls(
                kind=ServiceNoticeKind.DISRUPTION,
                topic="Uploads are slow",
                starts_at=datetime(2026, 5, 11, 7, 12, tzinfo=UTC),
            ),
            "resolved": cls(
                kind=ServiceNoticeKind.RESOLVED,
                topic="Uploads are slow",
                starts_at=datetime(2026, 5, 11, 7, 12, tzinfo=UTC),
                ends_at=datetime(2026, 5, 11, 8, 2, tzinfo=UTC),
            ),
        }


def find(name: str) -> type[Message]:
    """The message of that name; UnknownMessage if the catalogue has none."""
    try:
        return MESSAGES[name]
    except KeyError:
        raise UnknownMessage(f"The catalogue has no message {name!r}; it has {', '.join(MESSAGES)}.") from None


def read_context(name: str, data: Mapping[str, Any]) -> Message:
    """The typed context of an e-mail row's JSON; UnknownMessage or BadContext says what is wrong with it."""
    message = find(name)
    try:
        return msgspec.convert(data, message)
    except msgspec.ValidationError as error:
        raise BadContext(f"The data for the message {name!r} are not what it needs: {error}.") from error


def write_context(context: Message) -> dict[str, Any]:
    """The JSON that an e-mail row keeps; `read_context` reads it back."""
    data: dict[str, Any] = msgspec.to_builtins(context)
    return data


def _messages_of(namespace: Mapping[str, object]) -> Mapping[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for value in namespace.values():
        if isinstance(value, type) and issubclass(value, Message) and value is not Message:
            if value.name in found:
                raise TypeError(f"Two messages of the catalogue are called {value.name!r}; rename one.")
            found[value.name] = value
    return MappingProxyType(found)


#: Every message by name, in the order of this file: read from the classes above, so there is no second list.
MESSAGES: Final = _messages_of(vars(sys.modules[__name__]))
