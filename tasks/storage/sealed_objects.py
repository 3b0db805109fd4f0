"""What is stored for accounts, sealed on its way in and opened on its way out (T27).

Rows keep hash and size of the content; of what lies in the object store they keep none. Each sealing of the same
content gives other bytes, so a document that is made again after a crash replaces one sealed file by another that holds
the same, and the hash of the content still holds. That the file itself is whole and unchanged is what its format proves
(`tasks/crypto/age.py`).

What is not sealed is not read: there is no way around the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from models.data_map.places import ObjectPlace
from tasks.crypto.age import Identity, Recipient, Sealed, SealError, seal
from tasks.failures import Permanent
from tasks.ports.objects import ObjectStore, StoredObject

#: What an object store, or who looks into it, needs to know of a sealed file.
CONTENT_TYPE: Final = "application/octet-stream"
#: Sealed files up to this size are fetched by one request, and larger ones part by part.
WHOLE: Final = 1 << 20


def put(objects: ObjectStore, place: ObjectPlace, body: bytes, recipient: Recipient) -> None:
    """As `ObjectStore.put`, sealed."""
    objects.put(place, b"".join(seal([body], recipient)), content_type=CONTENT_TYPE)


def upload(objects: ObjectStore, place: ObjectPlace, parts: Iterable[bytes], recipient: Recipient) -> None:
    """As `ObjectStore.upload`, sealed, in flat memory."""
    objects.upload(place, seal(parts, recipient), content_type=CONTENT_TYPE)


def get(objects: ObjectStore, key: str, identity: Identity) -> bytes:
    """As `ObjectStore.get`: the content. Permanent, too, where the object is not sealed, or for another key."""
    return b"".join(_whole(key, objects.get(key), identity))


def read(
    objects: ObjectStore,
    stored: StoredObject,
    identity: Identity,
    *,
    start: int = 0,
    stop: int | None = None,
    bucket: str | None = None,
) -> Iterator[bytes]:
    """The content of a sealed object from `start` up to but without `stop`, in pieces and in flat memory.

    Raises as `get` does, also in the middle; each piece that was given is as it was sealed.
    """
    key = stored.key
    if stored.size <= WHOLE:
        yield from _whole(key, b"".join(objects.read(key, bucket=bucket)), identity, start, stop)
        return
    try:
        yield from Sealed(partial(objects.read, key, bucket=bucket), stored.size, identity).content(start, stop)
    except SealError as error:
        raise _unopened(key, error) from None


def _whole(key: str, held: bytes, identity: Identity, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    try:
        yield from Sealed(lambda first, last: [held[first:last]], len(held), identity).content(start, stop)
    except SealError as error:
        raise _unopened(key, error) from None


def _unopened(key: str, error: SealError) -> Permanent:
    return Permanent(f"The object {key} cannot be opened: {error} Restore it from a copy, then retry.")
