"""CSS written into the HTML templates once, when they are loaded (E3).

Mail clients drop style sheets, so every element carries its style. Doing that to each rendered message costs more than
rendering it; doing it to a template needs care, because an HTML parser moves text that stands between the rows of a
table out of it. So Jinja's statements become comments, which may stand anywhere, and its expressions become words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader

_JINJA: Final = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)
_MARK: Final = re.compile(r"<!--jinja-(\d+)-->|jinja-(\d+)-jinja")
_TAG: Final = re.compile(r"</?([a-z][a-z0-9]*)", re.IGNORECASE)


class LosesMarkup(ValueError):
    """An HTML parser would not keep the template's elements as they are written."""


class InlinedTemplates(FileSystemLoader):
    """Templates from a folder; each `.html` gets the styles of one style sheet of that folder."""

    def __init__(self, folder: Path, style_sheet: str) -> None:
        super().__init__(folder)
        self._css = (folder / style_sheet).read_text("utf-8")

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, path, is_fresh = super().get_source(environment, template)
        if template.endswith(".html"):
            source = inlined(source, self._css, template)
        return source, path, is_fresh


def inlined(source: str, css: str, name: str) -> str:
    """The Jinja source of a page or of a part of one, with the style sheet's rules in `style` attributes."""
    jinja: list[str] = []

    def mark(match: re.Match[str]) -> str:
        jinja.append(match[0])
        number = len(jinja) - 1
        return f"jinja-{number}-jinja" if match[0].startswith("{{") else f"<!--jinja-{number}-->"

    marked = _JINJA.sub(mark, source)
    # Only a process that writes mail pays for the inliner.
    from css_inline import CSSInliner  # noqa: PLC0415

    inliner = CSSInliner(load_remote_stylesheets=False, inline_style_tags=False, keep_style_tags=True, extra_css=css)
    result = inliner.inline(marked) if "<html" in marked else inliner.inline_fragment(marked, css)
    lost = Counter(_TAG.findall(marked.lower()))
    lost.subtract(_TAG.findall(result.lower()))
    changed = sorted(tag for tag, count in lost.items() if count)
    if changed:
        raise LosesMarkup(
            f"{name}: inlining adds or drops {', '.join(f'<{tag}>' for tag in changed)}. "
            "Write whole tables, with <tbody>, and close every element."
        )
    return _MARK.sub(lambda found: jinja[int(found[1] or found[2])], result)
