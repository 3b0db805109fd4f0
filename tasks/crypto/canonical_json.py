"""One way, and no other, to write a JSON value as bytes: what is hashed and signed must not depend on who writes it.

The rules are those of RFC 8785 (JSON Canonicalization Scheme): UTF-8, no white space, members sorted by the UTF-16 code
units of their names, strings with the shortest escapes. Of its numbers only whole ones up to 2^53 - 1 occur here, which
every JSON reader takes for the same number; other ones are refused, as are names that come twice and lone surrogates.
"""

from __future__ import annotations

import json
from typing import Any

#: The largest whole number that JSON readers agree on (RFC 8785, RFC 7493).
LARGEST = 2**53 - 1


def encode(value: Any) -> bytes:
    """The canonical form. Raises ValueError for what has none."""
    try:
        return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a character, which no UTF-8 can hold") from None


def decode(content: bytes | str) -> Any:
    """The value of any JSON text, canonical or not. Raises ValueError, with a sentence, for what is ambiguous."""
    try:
        value = json.loads(
            content, object_pairs_hook=_object, parse_float=_refused, parse_int=_whole, parse_constant=_refused
        )
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not JSON") from None
    return value


def _ordered(value: Any) -> Any:
    match value:
        case dict():
            if not all(isinstance(name, str) for name in value):
                raise ValueError("a name in it is no text")
            names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
            return {name: _ordered(value[name]) for name in names}
        case list() | tuple():
            return [_ordered(each) for each in value]
        case None | bool() | str():
            return value
        case int() if abs(value) <= LARGEST:
            return value
        case int():
            raise ValueError(f"the number {value} is larger than JSON readers agree on")
    raise ValueError(f"it has a {type(value).__name__}, for which there is no canonical form")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name comes twice in it")
    return made


def _whole(written: str) -> int:
    if len(written) > len(str(-LARGEST)) or abs(int(written)) > LARGEST or written == "-0":
        raise ValueError("a number in it is larger than JSON readers agree on")
    return int(written)


def _refused(written: str) -> Any:
    raise ValueError(f"the number {written[:40]} in it is no whole one")
