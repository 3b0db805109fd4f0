"""What PostgreSQL can hold of what Python can: text without NULs and halves of surrogate pairs, and JSON (RFC 8259)."""

from __future__ import annotations

import json
import re

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
