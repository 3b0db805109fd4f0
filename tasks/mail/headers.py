"""Write header fields of a mail: text, mailboxes and parameters (RFC 5322, 2047 and 2231).

Python's `email` parses a value that it is given and writes the result, so an encoded word inside a name is decoded into
line breaks, recipients and headers. Here nothing is parsed. A value that is not plainly harmless is encoded whole, in
base64, in which nothing can be structure.

Only the standard library is imported, so that the tests can run this file with every Python that is installed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote

#: Octets of text in one encoded word: with it, every line has 76 octets at most (RFC 2047, 2).
_WORD: Final = 39
#: Octets of a line that is folded at blanks (RFC 5322, 2.1.1), and of a word that may stand in one.
_LINE: Final = 76
_LONGEST_WORD: Final = 60
#: Octets of text in one piece of a long parameter; each may take three characters (RFC 2231, 3).
_PIECE: Final = 18
_TEXT: Final = re.compile(r"[!-~]+(?: [!-~]+)*")
#: What may stand before `<address>` without quotes: atoms and blanks (RFC 5322, 3.2.5).
_PHRASE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/?^_`{|}~-]+)*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._-]+(?: [A-Za-z0-9._-]+)*")


def text_field(name: str, text: str) -> bytes:
    """An unstructured field, such as Subject. The text may be anything that UTF-8 can write."""
    return _field(name, _words(text, _TEXT))


def mailbox_field(name: str, display_name: str, address: str) -> bytes:
    """A field of one mailbox. The address stands as it is: the caller has checked that it is one."""
    words = _words(display_name, _PHRASE) if display_name else []
    return _field(name, [*words, f"<{address}>"])


def plain_field(name: str, value: str) -> bytes:
    """A field of our own making. Raises ValueError for one that is more than a line of printable ASCII."""
    if not re.fullmatch(r"[ -~]*", value) or len(name) + len(value) > 900:
        message = f"the header {name} is not one line of printable ASCII"
        raise ValueError(message)
    return _field(name, value.split(" "))


def attachment_field(filename: str) -> bytes:
    """Content-Disposition with a file name, which may be anything that UTF-8 can write."""
    return ("Content-Disposition: attachment;\r\n " + ";\r\n ".join(_parameter("filename", filename)) + "\r\n").encode()


def _field(name: str, words: Sequence[str]) -> bytes:
    """The words, one blank apart, folded between them."""
    lines = [f"{name}:"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _LINE and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += f" {word}"
    return "".join(f"{line}\r\n" for line in lines).encode()


def _words(text: str, harmless: re.Pattern[str]) -> list[str]:
    words = text.split(" ")
    if harmless.fullmatch(text) and "=?" not in text and max(map(len, words)) <= _LONGEST_WORD:
        return words
    return [f"=?utf-8?b?{base64.b64encode(piece).decode()}?=" for piece in _pieces(text, _WORD)]


def _pieces(text: str, longest: int) -> Iterator[bytes]:
    """The text in UTF-8, cut between characters: each encoded word is decoded by itself (RFC 2047, 5)."""
    piece = b""
    for character in text:
        octets = character.encode()
        if len(piece) + len(octets) > longest:
            yield piece
            piece = b""
        piece += octets
    yield piece


def _parameter(name: str, value: str) -> list[str]:
    if _TOKEN.fullmatch(value) and len(value) <= _LONGEST_WORD:
        return [f'{name}="{value}"']
    # Cut between characters, too: some readers decode each piece by itself.
    pieces = [quote(piece, safe="") for piece in _pieces(value, _PIECE)]
    if len(pieces) == 1:
        return [f"{name}*=utf-8''{pieces[0]}"]
    return [f"{name}*{number}*={'' if number else 'utf-8' + 2 * chr(39)}{piece}" for number, piece in enumerate(pieces)]
