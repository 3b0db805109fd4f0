"""How long the end of a contract takes. Light: settings are parsed by every command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things take at the end of a contract, where whoever asks for it does not say otherwise (T2, T3)."""

    #: From the contract's end until the account is frozen.
    grace: timedelta = timedelta(days=14)
    #: How long before the end of a contract that still runs its customer is reminded of it.
    notice: timedelta = timedelta(days=14)
    #: How long the record can be fetched.
    window: timedelta = timedelta(days=30)
    #: How long before the window's end those are reminded who did not fetch it, longest first; never none.
    reminders: Sequence[timedelta] = (timedelta(days=14), timedelta(days=3))
