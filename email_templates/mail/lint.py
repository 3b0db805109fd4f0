"""The lint of rendered mail: nothing remote, nobody counted, readable to everybody (E3 to E6, P1.2, P7)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from email_templates.mail.markup import Element, page
from email_templates.mail.rendering import Rendered

#: All that our pages are made of. None of these loads anything.
TAGS: Final = {
    *("html", "head", "meta", "title", "style", "body", "div", "h1", "p", "br", "strong", "span", "a"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
#: All that a tag may carry; none of them loads anything or runs.
ATTRIBUTES: Final = {
    *("lang", "dir", "charset", "name", "content", "class", "style", "role", "scope", "href"),
    *("align", "width", "border", "cellpadding", "cellspacing"),
}
_LOADING: Final = re.compile(
    r"url\s*\(|@import|@font-face|@namespace|expression\s*\(|javascript:|data:|\\[0-9a-f]", re.IGNORECASE
)
_LEFT_OVER: Final = re.compile(r"\{\{|\{%|\{#|%\(|\bNone\b|\bUndefined\b|<built-in|jinja-\d")
#: Below the size from which Gmail cuts a message off.
_SIZE: Final = 100_000


def findings(mail: Rendered, *, language: str, own_host: str) -> list[str]:
    """What is wrong with a rendered message, in sentences; empty where nothing is.

    `language` is the reader's tag and `own_host` the company's website. Raises NotWellFormed.
    """
    root = page(mail.html)
    return [
        *_remote(mail, root),
        *_links(root, own_host),
        *_document(mail, root, language),
        *_tables(root),
        *_same_words(mail, root),
        *_text(mail.text),
    ]


def _remote(mail: Rendered, root: Element) -> Iterator[str]:
    for element in root.all():
        if element.tag not in TAGS:
            yield f"<{element.tag}> is not among the elements that load nothing."
        for name in element.attributes.keys() - ATTRIBUTES:
            yield f"<{element.tag}> carries {name}."
        if element.attributes.get("http-equiv"):
            yield "A <meta> acts like a header."
    styles = [element.attributes.get("style", "") for element in root.all()]
    for css in [*styles, *(style.text for style in root.all("style"))]:
        if _LOADING.search(css):
            yield f"A style may load something: {_LOADING.search(css)}."
    # What Outlook alone reads is not an element for a parser.
    for comment in re.findall(r"<!--(.*?)-->", mail.html, re.DOTALL):
        if re.search(r"src|href|url|<v:", comment):
            yield f"A comment may load something: {comment[:60]}."


def _links(root: Element, own_host: str) -> Iterator[str]:
    own = re.compile(rf"https://{re.escape(own_host)}(/[A-Za-z0-9_~.-]+)*", re.ASCII)
    for element in root.all():
        link = element.attributes.get("href")
        if link is None:
            continue
        if element.tag != "a":
            yield f"<{element.tag}> has a href."
        if not own.fullmatch(link):
            yield f"The link {link} is not a plain one to our own site."


def _document(mail: Rendered, root: Element, language: str) -> Iterator[str]:
    (html,) = root.all("html")
    if html.attributes != {"lang": language, "dir": "rtl" if language.startswith("ar") else "ltr"}:
        yield f"<html> says {html.attributes} of a message in {language}."
    if [title.text for title in root.all("title")] != [mail.subject]:
        yield "The title is not the subject."
    heads = list(root.all("h1"))
    if len(heads) != 1 or not heads[0].words.strip():
        yield "There is not exactly one heading."
    schemes = [
        meta.attributes.get("content") for meta in root.all("meta") if meta.attributes.get("name") == "color-scheme"
    ]
    if schemes != ["light dark"]:
        yield "The page does not say that it knows both colour schemes."
    if len(mail.html.encode()) > _SIZE:
        yield f"The page has {len(mail.html.encode())} bytes, more than {_SIZE}."
    if _LEFT_OVER.search(mail.html):
        yield f"Something was left over in the page: {_LEFT_OVER.search(mail.html)}."


def _tables(root: Element) -> Iterator[str]:
    for table in root.all("table"):
        captions = [child for child in table.children if child.tag == "caption"]
        if table.attributes.get("role") == "presentation":
            if captions or any(
                row.tag == "th" for body in table.children for line in body.children for row in line.children
            ):
                yield "A table for layout has a caption or heads."
            continue
        if len(captions) != 1 or not captions[0].words.strip():
            yield "A table of data has no caption."
        for head in table.all("thead"):
            if not all(cell.attributes.get("scope") == "col" and cell.words.strip() for cell in head.all("th")):
                yield "A column has no head, or one without a scope."
        for body in table.all("tbody"):
            for row in body.children:
                label, *values = row.children
                if label.tag != "th" or label.attributes.get("scope") != "row" or not label.words.strip():
                    yield "A row has no head, or one without a scope."
                if not values or not all(value.tag == "td" and value.words.strip() for value in values):
                    yield f"A cell is empty, beside {label.words.strip()}."


def _same_words(mail: Rendered, root: Element) -> Iterator[str]:
    """Text and HTML say the same (E5)."""
    text = _plain(mail.text)
    for row in root.all("tr"):
        cells = [_plain(cell.words).strip() for cell in row.children]
        if [cell.tag for cell in row.children] == ["th", "td"]:
            label, *note = [_plain(part.words).strip() for part in row.children[0].all("span")] or cells[:1]
            if not re.search(re.escape(label) + r"[ :]+" + re.escape(cells[1]), text) or not all(
                n in text for n in note
            ):
                yield f"The text does not say {' | '.join(cells)}."
    for element in root.all("p", "caption", "a", "td"):
        if not element.children:
            for words in _plain(element.text).split("·"):
                if words.strip() not in text:
                    yield f"The text does not say {words.strip()!r}."


def _plain(text: str) -> str:
    """Without isolates, marks and kinds of space, in which text and HTML may differ."""
    kept = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c) != "Cf")
    return re.sub(r" +", " ", kept)


def _text(text: str) -> Iterator[str]:
    if not text.endswith("\n") or text.endswith("\n\n") or "\n\n\n" in text:
        yield "The text has empty lines where none belong."
    for line in text.splitlines():
        if line != line.rstrip():
            yield f"A line of the text ends in a space: {line!r}."
        # Rows of a table and addresses are never broken.
        if len(line) > 76 and " " in line and not line.startswith("  "):
            yield f"A line of the text is too long: {line!r}."
    if _LEFT_OVER.search(text) or re.search(r"<[a-z/]", text):
        yield "Something was left over in the text."
