"""Session stores of other programs (S5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from models.data_map.map import AccountKeys
from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


@dataclass(frozen=True, slots=True)
class Left:
    """What is left in a session store, by its own clock."""

    #: When the oldest of them began, as far as the store tells; None where there is none.
    oldest_at: datetime | None
    #: How many of them will last for more than a day unless somebody acts.
    outlasting: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep of a store did: sessions ended, sessions whose end was brought forward, and whether it got to the
    end of the store."""

    gone: int
    cut: int
    finished: bool


class SessionStore(Protocol):
    """Sessions that another program keeps (S5)."""

    @property
    def name(self) -> str:
        """As the settings call it."""

    def check(self) -> None:
        """Raises `Permanent` where the store is not what its settings say, and `Unavailable` where it is away."""

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        """End the sessions that are a day old, in short steps, until none is left or `stopping`. Raises as `check`."""

    def end(self, account: AccountKeys) -> int:
        """End all sessions of a frozen account, as far as the data map tells whose they are; how many are left.

        What a legal hold names is kept: where the store can, so that nobody can read it, else as it is and not counted.
        Raises as `check`.
        """

    def left(self) -> Left:
        """What is left now. Raises as `check`."""

    def count(self) -> int:
        """How many sessions are stored. Raises as `check`."""

    def close(self) -> None:
        """Let go of connections; the next use makes new ones."""
