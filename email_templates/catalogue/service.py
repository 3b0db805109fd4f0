"""Messages about the service itself and its rules (P3.1e)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Self

from email_templates.catalogue.message import Message, check_page


class ServiceNoticeKind(StrEnum):
    MAINTENANCE = "maintenance"
    DISRUPTION = "disruption"
    RESOLVED = "resolved"


class ServiceNotice(Message, frozen=True, kw_only=True):
    """Work on the service, or trouble with it. `topic` and `details` are an operator's own words, in one language."""

    name = "service-notice"
    promise = "P3.1e"
    why_not_marketing = "It tells customers when and how the service that they pay for will differ from normal."
    resend_if_unknown = True
    optional = True

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


class PolicyDocument(StrEnum):
    PRIVACY_POLICY = "privacy_policy"
    TERMS = "terms"


class PolicyUpdated(Message, frozen=True, kw_only=True):
    """The privacy policy or the terms change. `changes` are an operator's own words, a paragraph each."""

    name = "policy-updated"
    promise = "P3.1e"
    why_not_marketing = "It tells the customer of new rules for their data or their contract before they apply."
    resend_if_unknown = True

    document: PolicyDocument
    applies_from: date
    #: The path of the new version on our own site.
    page: str
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_page(self.page)

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                document=PolicyDocument.PRIVACY_POLICY,
                applies_from=date(2026, 9, 1),
                page="/privacy",
                changes=(
                    "Session cookies now expire after 24 hours instead of 30 days.",
                    "We name the company that stores our backups.",
                ),
            ),
            "terms": cls(document=PolicyDocument.TERMS, applies_from=date(2026, 9, 1), page="/terms"),
        }
