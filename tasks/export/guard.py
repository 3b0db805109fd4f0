"""The formula guard (T14): a text that a spreadsheet would run is kept from it, and can be had back exactly.

A cell that begins, after any number of apostrophes, with one of `STARTERS` gets one apostrophe more in front. Undone, a
cell that begins so after at least one apostrophe loses the first. Every text has one guarded form and comes back from
it; columns of numbers, JSON and the like are never touched, and the manifest says which columns are guarded.
"""

from __future__ import annotations

import re
from typing import Final

#: What Excel, LibreOffice and Google Sheets take for the beginning of a formula, or skip before one; the last four are
#: the full-width forms, which some of them read as the plain ones.
STARTERS: Final = "=+-@\t\r\n＝＋－＠"
SCHEME: Final = "apostrophe"
EXPLANATION: Final = (
    "A cell of a guarded column that begins, after one or more apostrophes ('), with one of the characters in "
    '"starters" has one apostrophe in front that is not part of the value. Take that one away to get the value.'
)
_GUARDED: Final = re.compile(f"'+[{re.escape(STARTERS)}]")
_RISKY: Final = re.compile(f"'*[{re.escape(STARTERS)}]")


def guard(text: str) -> str:
    return f"'{text}" if _RISKY.match(text) else text


def undo(cell: str) -> str:
    return cell[1:] if _GUARDED.match(cell) else cell


def is_risky(cell: str) -> bool:
    """Whether a spreadsheet would run it: it begins with a starter and has no apostrophe in front."""
    return cell[:1] != "" and cell[0] in STARTERS


def guarded_sql(text: str, encoding: str = "UTF8") -> str:
    """The same as an SQL expression over the text expression `text`, in a database of this encoding.

    The comparisons come first because they cost a tenth of the regular expression, and few texts begin before `A`. The
    first looks at one byte, which is less than 65 or, beyond ASCII, negative, in whatever encoding: it costs a third of
    the next. Where an encoding has no full-width forms, no text holds one, and no statement may.
    """
    byte = f'CAST(CAST({text} AS "char") AS int4)'
    exact = f'{text} COLLATE "C"'
    wide = "＝＋－＠" if encoding == "UTF8" or encoding.startswith("EUC_") else ""
    few = f"{byte} < 65"
    if encoding == "UTF8":
        few += f" AND ({exact} < 'A' OR {exact} >= E'\\uFF00')"
    return f"CASE WHEN {few} AND {exact} ~ '^''*[-=+@\\t\\r\\n{wide}]' THEN '''' || {text} ELSE {text} END"
