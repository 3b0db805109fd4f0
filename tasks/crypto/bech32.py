"""Bech32 (BIP 173), in which age writes its keys: letters and digits with a checksum, without BIP 173's limit of 90."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

_LETTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, value: bytes) -> str:
    """In lower case; whoever wants capitals makes all of it capital."""
    data = list(_regrouped(value, 8, 5, pad=True))
    check = _polymod([*_expanded(prefix), *data, *[0] * 6]) ^ 1
    data += [(check >> 5 * (5 - each)) & 31 for each in range(6)]
    return f"{prefix}1{''.join(_LETTERS[each] for each in data)}"


def decode(text: str) -> tuple[str, bytes]:
    """Prefix, in lower case, and value; raises ValueError where a letter is wrong."""
    if text not in (text.lower(), text.upper()):
        raise ValueError("capital and small letters are mixed")
    prefix, _, letters = text.lower().rpartition("1")
    data = [_LETTERS.index(letter) for letter in letters]
    if not prefix or len(data) < 6 or _polymod([*_expanded(prefix), *data]) != 1:
        raise ValueError("the checksum is wrong")
    return prefix, bytes(_regrouped(data[:-6], 5, 8, pad=False))


def _expanded(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [code >> 5 for code in codes] + [0] + [code & 31 for code in codes]


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for each in range(5):
            check ^= _GENERATOR[each] if top >> each & 1 else 0
    return check


def _regrouped(values: Iterable[int], width: int, into: int, *, pad: bool) -> Iterator[int]:
    """Groups of `width` bits as groups of `into` bits; what is left over is padded with zeros or must be zeros."""
    held = bits = 0
    for value in values:
        held = (held << width | value) & 0xFFF
        bits += width
        while bits >= into:
            bits -= into
            yield held >> bits & (1 << into) - 1
    if pad and bits:
        yield held << into - bits & (1 << into) - 1
    elif not pad and (bits >= width or held & (1 << bits) - 1):
        raise ValueError("the padding is wrong")
