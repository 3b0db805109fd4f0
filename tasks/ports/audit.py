"""The auditor of installed packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """What is publicly known against a version of a package: the advisory, and the versions without it."""

    package: str
    version: str
    advisory: str
    aliases: Sequence[str] = ()
    fixed_in: Sequence[str] = ()


class Auditor(Protocol):
    def __call__(self) -> tuple[int, Sequence[Vulnerability]]:
        """Look up what is installed: how many packages, and what is known against them. Raises `Unavailable`."""
