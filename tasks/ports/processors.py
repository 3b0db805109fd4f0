"""Parties outside that keep data of customers (T21)."""

from __future__ import annotations

from typing import Protocol

from models.data_map.map import AccountKeys
from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


class OutsideProcessor(Protocol):
    """A party outside that keeps data of customers, and tells and erases them when it is asked (T21)."""

    def records(self, account: AccountKeys) -> int:
        """How many records of the account it holds now. Raises `Unavailable`, or `Permanent` where it does not tell."""

    def erase(self, account: AccountKeys) -> None:
        """Ask it to erase them, at once or soon; asked twice it does no harm. Raises as `records` does."""
