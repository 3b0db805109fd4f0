"""The parts of a multipart upload: 10,000 at the most, of 5 MiB at the least but for the last, whatever S3 it is.

The first 2,000 parts have 8 MiB, so memory stays the same up to 15 GiB. Then they grow: every 1,000 parts are twice as
large, and an object of 4 TB fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

FIRST: Final = 8 << 20
STEADY: Final = 2_000
STEP: Final = 1_000
MOST: Final = 10_000


def part_size(number: int) -> int:
    """Bytes of the part of this number, from 1."""
    return FIRST << max(0, -(-(number - STEADY) // STEP))


def parts(pieces: Iterable[bytes]) -> Iterator[bytearray]:
    """The same bytes in parts of these sizes, the last one smaller; of nothing, one empty part.

    A part is handed over and not copied. Whoever lets go of it before the next one is asked for has one in memory.
    """
    held = bytearray()
    number = 1
    for piece in pieces:
        held += piece
        while len(held) >= (size := part_size(number)):
            rest = held[size:]
            del held[size:]
            yield held
            held = rest
            number += 1
    if held or number == 1:
        yield held
