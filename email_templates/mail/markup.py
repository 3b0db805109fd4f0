"""A strict reading of our own pages: what a browser would have to mend is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

_VOID: Final = {"meta", "br"}


class NotWellFormed(ValueError):
    """A page that a browser would have to mend."""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, *tags: str) -> Iterator[Element]:
        """Those below, in order; of any tag where none is named."""
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)

    @property
    def words(self) -> str:
        """All text below."""
        return " ".join([self.text, *(child.words for child in self.children)])


def page(source: str) -> Element:
    """A strict reading: what is opened is closed, in order. Raises NotWellFormed."""
    reading = _Reading()
    reading.feed(source)
    reading.close()
    if len(reading.open) > 1:
        raise NotWellFormed(f"<{reading.open[-1].tag}> is never closed")
    return reading.root


class _Reading(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        if len(element.attributes) < len(attrs):
            raise NotWellFormed(f"<{tag}> has an attribute twice")
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        opened = self.open.pop().tag if len(self.open) > 1 else "nothing"
        if opened != tag:
            raise NotWellFormed(f"</{tag}> closes {opened}")

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data
