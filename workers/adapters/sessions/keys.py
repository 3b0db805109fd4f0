"""Whose sessions the keys of a Redis hold, where the data map says it by a pattern (S6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from models.base.unit_of_work import Database
from models.data_map.map import RedisKeys
from models.sessions.owner import Named
from tasks.failures import Permanent

#: One element of a pattern of SCAN: an escaped character, a class, a wildcard, any other character.
_ELEMENT = re.compile(rb"\\(?P<escaped>.)|(?P<class>\[)|(?P<wildcard>[*?])|(?P<plain>.)", re.DOTALL)


def expression(pattern: str) -> bytes:
    """What SCAN's MATCH finds by the pattern, as a regular expression over a key's bytes. Raises Permanent."""
    return b"".join(map(_translated, _ELEMENT.finditer(pattern.encode())))


def _translated(element: re.Match[bytes]) -> bytes:
    if element["class"]:
        raise Permanent("A pattern of sessions' keys in datamap.toml has [...] in it: write ? or * instead.")
    if element["wildcard"]:
        return b".*" if element["wildcard"] == b"*" else b"."
    return re.escape(element["escaped"] or element["plain"])


@dataclass(frozen=True, slots=True)
class KeyOwners:
    """The patterns of the data map that lie in one server, and Tenure's database, which knows of freezes and holds."""

    patterns: Sequence[RedisKeys]
    tenure: Database


class Matcher:
    """Tells whose a key is, of some accounts. All of them are one expression."""

    def __init__(self, patterns: Sequence[RedisKeys], accounts: Iterable[Named]) -> None:
        self.accounts = list(accounts)
        each = [
            b"(%b)" % b"|".join(b"(?:%b)" % expression(pattern.of(account.keys)) for pattern in patterns)
            for account in self.accounts
        ]
        self._match: Callable[[bytes], re.Match[bytes] | None] = re.compile(b"|".join(each), re.DOTALL).fullmatch

    def __call__(self, key: bytes) -> Named | None:
        found = self._match(key)
        return self.accounts[found.lastindex - 1] if found is not None and found.lastindex is not None else None
