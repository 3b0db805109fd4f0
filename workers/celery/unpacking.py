"""Bounds on what a message may make of a worker's memory, checked before it is unpacked (W21).

A few kilobytes can unpack to gigabytes: by compression, by a codec that is named as character set, or by nesting.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

#: Bytes of a message in the broker, with its envelope. A longer one is refused, and its beginning kept.
MOST_BYTES = 2 << 20
#: Bytes of a body after it was decompressed.
MOST_UNPACKED_BYTES = 1 << 20
#: Levels of lists and objects in a body or in headers.
MOST_LEVELS = 64
#: Bytes that LZMA may allocate for its dictionary, which the message chooses.
LZMA_MEMORY_BYTES = 32 << 20


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_DECOMPRESSORS: Mapping[str, Callable[[], _Decompressor]] = {
    "application/x-gzip": zlib.decompressobj,
    "gzip": zlib.decompressobj,
    "zlib": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "bzip2": bz2.BZ2Decompressor,
    "bzip": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES),
    "lzma": lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES),
    "xz": lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES),
}


class CannotUnpackError(ValueError):
    """A body is longer than it may be, or is not what its headers say; the text is a sentence for the quarantine."""


def decompressed(body: bytes, compression: object) -> bytes:
    """The body, of at most `MOST_UNPACKED_BYTES`. Raises CannotUnpackError."""
    if compression:
        make = _DECOMPRESSORS.get(compression) if isinstance(compression, str) else None
        if make is None:
            raise CannotUnpackError(
                "The body cannot be unpacked: its compression is none of gzip, bzip2 and lzma. Send it without."
            )
        try:
            body = make().decompress(body, MOST_UNPACKED_BYTES + 1)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
            raise CannotUnpackError("The body cannot be unpacked: it is not compressed as its headers say.") from None
    if len(body) > MOST_UNPACKED_BYTES:
        raise CannotUnpackError(
            f"The body has more than {MOST_UNPACKED_BYTES:,} bytes, which is the most that is read: "
            "send what the request needs alone."
        )
    return body


def is_deeper(value: Any, levels: int = MOST_LEVELS) -> bool:
    """Whether lists and objects are nested in more levels than these."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
