"""Which characters the fonts of the documents can draw.

PDF/A refuses a page with a missing glyph, and a customer's name must never be what stops a statement: what no font has
is replaced by the replacement character, visibly.
"""

from __future__ import annotations

import mmap
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_REPLACEMENT: Final = "\ufffd"
#: Format characters that shape or order text and that Typst knows: joiners, direction marks, and our own isolates.
_KEPT: Final = frozenset("\u200c\u200d\u200e\u200f\u061c\u2068\u2069")


def covered(fonts: Iterable[Path]) -> frozenset[int]:
    """The code points that at least one of these fonts, TrueType or OpenType, has a glyph for."""
    return frozenset(point for font in fonts for point in _of_file(font))


def _of_file(path: Path) -> Iterator[int]:
    # Mapped: a font for Chinese has twenty megabytes, of which this reads a few thousand bytes.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as font:
        # The fonts of a collection share what they draw; they differ in how.
        start = struct.unpack_from(">I", font, 12)[0] if font[:4] == b"ttcf" else 0
        yield from _code_points(font, start)


def drawable(text: str, points: frozenset[int]) -> str:
    """The text in NFC, with a replacement character for each one that no font draws."""
    if text.isascii():
        return text
    drawn: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:
            if character in _KEPT:
                drawn.append(character)
        elif ord(character) in points and category != "Co":
            drawn.append(character)
        elif category != "Co" and points.issuperset(map(ord, plain := unicodedata.normalize("NFKC", character))):
            # A full-width or ligature form, of which we have the plain one.
            drawn.append(plain)
        elif not (category == "Mn" and drawn and drawn[-1] == _REPLACEMENT):
            drawn.append(_REPLACEMENT if ord(_REPLACEMENT) in points else "?")
    return "".join(drawn)


def _code_points(font: mmap.mmap, start: int) -> Iterator[int]:
    """From the `cmap` table (OpenType 1.9): formats 4 and 12, the Unicode ones that fonts use."""
    (tables,) = struct.unpack_from(">H", font, start + 4)
    for entry in range(tables):
        tag, _, cmap, _ = struct.unpack_from(">4sIII", font, start + 12 + 16 * entry)
        if tag == b"cmap":
            break
    else:
        return
    (encodings,) = struct.unpack_from(">H", font, cmap + 2)
    for encoding in range(encodings):
        platform, _, offset = struct.unpack_from(">HHI", font, cmap + 4 + 8 * encoding)
        (table_format,) = struct.unpack_from(">H", font, cmap + offset)
        if table_format == 12:
            (groups,) = struct.unpack_from(">I", font, cmap + offset + 12)
            for group in range(groups):
                first, last, _ = struct.unpack_from(">III", font, cmap + offset + 16 + 12 * group)
                yield from range(first, last + 1)
        elif table_format == 4 and platform in (0, 3):
            yield from _segments(font, cmap + offset)


def _segments(font: mmap.mmap, at: int) -> Iterator[int]:
    (doubled,) = struct.unpack_from(">H", font, at + 6)
    count = doubled // 2
    ends = struct.unpack_from(f">{count}H", font, at + 14)
    starts = struct.unpack_from(f">{count}H", font, at + 16 + doubled)
    deltas = struct.unpack_from(f">{count}H", font, at + 16 + 2 * doubled)
    offsets_at = at + 16 + 3 * doubled
    offsets = struct.unpack_from(f">{count}H", font, offsets_at)
    for segment in range(count):
        for point in range(starts[segment], ends[segment] + 1):
            if offsets[segment]:
                place = offsets_at + 2 * segment + offsets[segment] + 2 * (point - starts[segment])
                (glyph,) = struct.unpack_from(">H", font, place)
            else:
                glyph = (point + deltas[segment]) & 0xFFFF
            if glyph and point != 0xFFFF:
                yield point
