"""Text that somebody else wrote, made safe to stand inside ours (E3, E6)."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import regex

#: C0, C1, and what else a reader may take for the end of a line.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SPACES: Final = re.compile(" {2,}")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
#: Embeddings, overrides and isolates: they reach beyond the text that holds them. Marks (LRM, RLM, ALM) do not.
_BIDI: Final = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
#: What a reader takes for one character (UAX 29).
_GRAPHEME: Final = regex.compile(r"\X")
_ISOLATE, _POP = "\u2068", "\u2069"
_ADDRESS: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*://|\bwww\.(?=\w))(?P<rest>[^\s<>\"']+)", re.IGNORECASE)
#: A scheme, an address, or a dot before two letters or digits, in whatever width: what becomes a link.
_LINK: Final = re.compile(r"://|[@\uff20]|www[.\uff0e\u3002]|[^\s.][.\uff0e\u3002\uff61][^\W_]{2}", re.IGNORECASE)
_HOSTS_NAMED: Final = 5
_LINE: Final = 76


def unbroken(text: str) -> str:
    """The text on one line, without control characters, so that it cannot end a header (E3)."""
    return _SPACES.sub(" ", _CONTROL.sub(" ", text)).strip(" ")


def one_line(text: str) -> str:
    """Somebody's text on one line, without bidi controls: it can neither begin a line of ours nor turn one around."""
    return unbroken(_SURROGATE.sub("\ufffd", _BIDI.sub("", text)))


def clean(value: Any) -> Any:
    """The same value with every text in it made `one_line`."""
    return each_text(value, one_line)


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every text in it changed."""
    # An enumeration's members are our own words.
    if type(value) is str:
        return change(value)
    if isinstance(value, msgspec.Struct):
        fields = {field: each_text(getattr(value, field), change) for field in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    if isinstance(value, (tuple, list)):
        return tuple(each_text(item, change) for item in value)
    return value


def quoted(text: str, direction: str) -> str:
    """The text, isolated if it holds letters of the other direction than the sentence around it."""
    other = {"L"} if direction == "rtl" else {"R", "AL", "AN"}
    if any(unicodedata.bidirectional(character) in other for character in text):
        return f"{_ISOLATE}{text}{_POP}"
    return text


def cut(text: str, length: int) -> str:
    """At most `length` characters, cut between graphemes: an accent, a joined emoji or a flag is whole or left out.

    An isolate that was opened is closed. One grapheme that is longer than `length` by itself is cut inside.
    """
    if len(text) <= length:
        return text
    end = 0
    for grapheme in _GRAPHEME.finditer(text):
        if grapheme.end() > length - 1:
            break
        end = grapheme.end()
    kept = text[: end or length - 1].rstrip(" ")
    open_isolates = kept.count(_ISOLATE) - kept.count(_POP)
    if open_isolates > 0:
        kept = kept[: length - 1 - open_isolates] + _POP * open_isolates
    return kept + "…"


def without_links(text: str, length: int) -> str:
    """A name of at most `length` characters, without words that a mail program makes a link or an address of.

    For mail to an address that nobody has confirmed: whoever signs up with a victim's address chooses the names in it,
    and must not be able to write the company's mail. A name of nothing but links becomes "…".
    """
    kept = " ".join(word for word in one_line(text).split(" ") if not _LINK.search(word))
    return cut(kept, length) if kept or not text.strip() else "…"


def texts_of(value: Any) -> Iterable[str]:
    """Every text in a value that is not one of our own words."""
    if type(value) is str:
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from texts_of(getattr(value, field))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from texts_of(item)


def hosts_named(texts: Iterable[str], own: str) -> tuple[str, ...]:
    """The hosts of web addresses in texts, other than our own: for the third-party notice (P7.1)."""
    found: dict[str, None] = {}
    for text in texts:
        for match in _ADDRESS.finditer(text):
            authority = re.split(r"[/?#\\]", match["rest"], maxsplit=1)[0]
            host = authority.rpartition("@")[2].rstrip(".,;:!?)]}»”’").lower()
            if host and host != own and not host.endswith("." + own):
                found[cut(host, 80)] = None
    return tuple(sorted(found))[:_HOSTS_NAMED]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Labels and figures in two columns; the figures end at one edge. A third text of a row is a line below it."""
    labels = max((_width(row[0]) for row in rows), default=0)
    figures = max((_width(row[1]) for row in rows), default=0)
    lines: list[str] = []
    for label, figure, *notes in rows:
        lines.append(f"  {label}{' ' * (labels - _width(label))}  {' ' * (figures - _width(figure))}{figure}")
        lines += (f"    {note}" for note in notes)
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """Paragraphs at most 76 columns wide and one empty line apart; indented lines are kept as they are."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith(" "):
            lines.append(line.rstrip())
        else:
            # An address or an amount is never broken.
            lines += textwrap.wrap(line, _LINE, break_long_words=False, break_on_hyphens=False) or [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def _width(text: str) -> int:
    """Columns in a fixed-width font: isolates, marks and accents take none."""
    return sum(unicodedata.category(character) not in {"Cf", "Mn", "Me"} for character in text)
