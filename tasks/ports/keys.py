"""Redis or Valkey servers in which keys of accounts lie (T21)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


class KeyStore(Protocol):
    """A Redis or Valkey in which keys of accounts lie (T21)."""

    def keys(self, pattern: str) -> Iterator[Sequence[bytes]]:
        """The keys that match, some at a time, as SCAN finds them. Raises `Unavailable` or `Permanent`."""

    def remove(self, keys: Sequence[bytes]) -> int:
        """Remove these keys; how many there were. Raises as `keys` does."""
