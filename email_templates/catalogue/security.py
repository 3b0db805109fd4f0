"""Messages about who can reach an account (P5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from email_templates.catalogue.message import Message


class SignInNotice(Message, frozen=True, kw_only=True):
    """Somebody signed in from a device that was not seen before. What is told of the device is never trusted."""

    name = "sign-in-notice"
    promise = "P5.1"
    why_not_marketing = "It tells the customer who has just reached their data, so that a stranger is noticed."
    urgent = True
    resend_if_unknown = True

    account_name: str
    signed_in_at: datetime
    device: str | None = None
    ip_address: str | None = None
    place: str | None = None

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                account_name="Köhler & Söhne GmbH",
                signed_in_at=datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
                device="Firefox 146, Linux",
                ip_address="2001:db8::7a31",
                place="Graz, Austria",
            )
        }


class SecurityEvent(StrEnum):
    SESSIONS_SIGNED_OUT = "sessions_signed_out"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - the name of an event
    TWO_STEP_OFF = "two_step_off"


class SecurityNotice(Message, frozen=True, kw_only=True):
    """Something happened to the access to an account that its owner must hear of at once."""

    name = "security-notice"
    promise = "P5.1"
    why_not_marketing = "It warns the customer of a change in who can reach their data."
    urgent = True
    resend_if_unknown = True

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
                event=SecurityEvent.PASSWORD_CHANGED,
                account_name=account,
                happened_at=happened_at,
                device="Safari 26, macOS",
                ip_address="203.0.113.77",
            ),
            "two-step-off": cls(event=SecurityEvent.TWO_STEP_OFF, account_name=account, happened_at=happened_at),
        }
