"""Archives' CSV read back exactly: empty is NULL, `""` the empty text, and the formula guard can be undone (T13, T14).

Python's own reader cannot tell NULL from the empty text, nor a quoted line break from a torn row.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final

Row = list[str | None]

#: One cell and what ends it. Possessive: a cell of a megabyte is gone through once.
_CELL: Final = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\r\n]*+))(,|\r\n)')
#: What no further text can make a cell of.
_TORN: Final = re.compile(r'"(?:[^"]++|"")*+"(?:[^",\r]|\r[^\n])|[^",\r\n]*+(?:\n|\r[^\n])|[^",\r\n]++"')


class CSVError(ValueError):
    """What is no CSV as we write it; the sentence names the row and none of its values."""


def cells(pieces: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a CSV file that comes in pieces of any size, the header first. Raises CSVError."""
    reader = _Reader()
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.end()


class _Reader:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        #: What is not yet rows, what has come since, and how much of that is worth another look.
        self._held = ""
        self._come: list[str] = []
        self._size = self._wanted = 0
        self._row: Row = []
        self._number = 1

    def feed(self, piece: bytes, *, final: bool = False) -> Iterator[Row]:
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            raise CSVError(f"row {self._number} or one soon after it is not UTF-8") from None
        self._come.append(text)
        self._size += len(text)
        # A cell that is longer than what is held is looked for again only when twice as much has come.
        if self._size < self._wanted and not final:
            return
        self._held, self._come, self._size = self._held + "".join(self._come), [], 0
        at = 0
        while match := _CELL.match(self._held, at):
            quoted, plain, end = match.groups()
            self._row.append(quoted.replace('""', '"') if quoted is not None else plain or None)
            at = match.end()
            if end != ",":
                yield self._row
                self._row, self._number = [], self._number + 1
        if _TORN.match(self._held, at):
            raise CSVError(f"row {self._number} is torn: a quotation mark or a line break stands where none may")
        self._held = self._held[at:]
        self._wanted = len(self._held)

    def end(self) -> Iterator[Row]:
        yield from self.feed(b"", final=True)
        if self._held or self._row:
            raise CSVError(f"row {self._number} has no end")
