"""What PostgreSQL can hold of what Python can: text without NULs and halves of surrogate pairs, and JSON (RFC 8259)."""

from __future__ import annotations

import json
import math
import re
from datetime import date, time
from decimal import Decimal
from typing import Any
from uuid import UUID

#: What Python may hold as text and PostgreSQL may not.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
#: A NUL as JSON writes it, and not a backslash that happens to stand before `u0000`.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def as_json(value: object) -> str:
    """As PostgreSQL's jsonb takes it; raises ValueError, quoting nothing, where it is no JSON."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"this is no JSON ({type(error).__name__}): use objects, lists, text, finite numbers, true, false and null"
        ) from None
    if UNSTORABLE.search(written) or _ESCAPED_NUL.search(written):
        raise ValueError("text with a NUL or half a surrogate pair cannot be stored: take that character out")
    return written


def clean_text(text: str) -> str:
    """The text without NULs and with a question mark for each half of a surrogate pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def cleaned(value: object, levels: int = 100) -> Any:
    """What jsonb can hold of any value that a message may bring.

    Values are cleaned, and never text that was written of them. What is nested in more than `levels` is left out.
    """
    if isinstance(value, dict | list | tuple) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {clean_text(str(name)): cleaned(inner, levels - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(inner, levels - 1) for inner in value]
    return _cleaned_scalar(value)


def _cleaned_scalar(value: object) -> str | int | float | None:
    cleaned: str | int | float | None
    match value:
        case str():
            cleaned = clean_text(value)
        # PostgreSQL's numbers have 131,072 digits before the point, and Python writes 4,300.
        case int() if value.bit_length() >= 10_000:
            cleaned = "a number of thousands of digits"
        case None | int():
            cleaned = value
        case float():
            cleaned = value if math.isfinite(value) else str(value)
        case date() | time() | Decimal() | UUID():
            cleaned = str(value)
        case bytes():
            cleaned = clean_text(value.decode(errors="replace"))
        case _:
            cleaned = f"({type(value).__name__})"
    return cleaned
