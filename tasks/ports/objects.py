"""The object store: what tasks ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from models.data_map.places import ObjectPlace
from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that the object store lists: its key, and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of an object, or the marker of a deletion: in a bucket without versions, the object itself."""

    key: str
    version: str


@dataclass(frozen=True, slots=True)
class Locked:
    """A version that the object store does not let go (Object Lock); `until` is None where that is not known."""

    stored: StoredVersion
    until: datetime | None


class ObjectStore(Protocol):
    def put(self, place: ObjectPlace, body: bytes, *, content_type: str) -> None:
        """Store `body` at `place`, whole or not at all. Raises `Unavailable` or `Permanent`."""

    def get(self, key: str) -> bytes:
        """The bytes stored under `key`. Raises `Unavailable`, or `Permanent` where there are none."""

    def read(self, key: str, start: int = 0, stop: int | None = None, *, bucket: str | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but without `stop`, in pieces; raises as `get` does.

        Here and in `list`, a bucket of None is that of the settings.
        """

    def list(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredObject]:
        """All objects whose keys begin with `prefix`, in the order of their keys. Raises `Unavailable`."""

    def versions(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredVersion]:
        """All versions below `prefix`, of objects that were deleted, too, and delete markers. Raises `Unavailable`."""

    def remove(self, versions: Sequence[StoredVersion], *, bucket: str | None = None) -> Sequence[Locked]:
        """Remove up to a thousand versions for good; those that are locked stay. Raises `Unavailable`."""

    def abandon(self, prefix: str, *, bucket: str | None = None) -> int:
        """Abort all uploads below `prefix` that were begun and not completed; returns how many. Raises `Unavailable`.

        A process that still uploads there gets `Transient`.
        """

    def unfinished(self, prefix: str, *, bucket: str | None = None) -> int:
        """How many uploads below `prefix` were begun and not completed. Raises `Unavailable`."""

    def upload(self, place: ObjectPlace, parts: Iterable[bytes], *, content_type: str) -> None:
        """Store the parts, of any sizes, one after the other at `place`, whole or not at all, in flat memory.

        What `parts` raises ends the upload and leaves no object. Raises `Unavailable`, or `Permanent` where it is too
        large. An upload that `erase` came across cannot be completed.
        """

    def erase(self, key: str) -> None:
        """Remove the object under exactly this key, all its versions, and uploads that were not completed.

        Nothing there is no error. Raises `Unavailable`.
        """
