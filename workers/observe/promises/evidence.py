"""What evidence for a promise is. `workers/observe/promises/report.py` lists the promises and their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from workers.settings.settings import Settings


class Verdict(StrEnum):
    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "not measurable"


@dataclass(frozen=True, slots=True)
class Evidence:
    verdict: Verdict
    #: The figure, or why there is none.
    figure: str


@dataclass(frozen=True, slots=True)
class Installation:
    """What evidence is taken from."""

    settings: Settings
    connection: Connection


def judged(kept: bool, figure: str) -> Evidence:
    return Evidence(Verdict.KEPT if kept else Verdict.BROKEN, figure)
