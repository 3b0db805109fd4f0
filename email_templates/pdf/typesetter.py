"""Typst, kept: one compiler with its fonts and parsed templates for the life of a process.

The same document gives the same bytes, next year and on another machine (B3): its only date is its day of issue, its
only fonts are those that we install, and Typst derives the file's id from what it shows. Files are PDF/A-2a, for
archives that must keep them, and PDF/UA-1, for those who have them read to them. Of a font only the glyphs that are
used go into the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, date, datetime, time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import fontpkg_heebo
import fontpkg_ibm_plex_sans
import fontpkg_ibm_plex_sans_arabic
import fontpkg_noto_sans_devanagari
import fontpkg_noto_sans_thai
import noto_cjk_sans_otc
import typst

from email_templates.pdf.glyphs import covered, drawable

_FOLDER: Final = Path(__file__).parent
#: Latin, Greek and Cyrillic; Arabic; Hebrew; Thai; Devanagari; Chinese, Japanese and Korean.
_FONTS: Final = (
    Path(fontpkg_ibm_plex_sans.ROOT) / "files" / "IBMPlexSans[wdth,wght].ttf",
    *sorted((Path(fontpkg_ibm_plex_sans_arabic.ROOT) / "files").glob("*.ttf")),
    Path(fontpkg_heebo.ROOT) / "files" / "Heebo[wght].ttf",
    Path(fontpkg_noto_sans_thai.ROOT) / "files" / "NotoSansThai[wdth,wght].ttf",
    Path(fontpkg_noto_sans_devanagari.ROOT) / "files" / "NotoSansDevanagari[wdth,wght].ttf",
    Path(str(noto_cjk_sans_otc.FONT_PATH)),
)
#: Their families, in the order in which a character looks for its glyph. The last, of many Han forms, depends.
FAMILIES: Final = ("IBM Plex Sans", "IBM Plex Sans Arabic", "Heebo", "Noto Sans Thai", "Noto Sans Devanagari")
_STANDARDS: Final[list[typst.PDFStandard]] = ["a-2a", "ua-1"]
#: What a document's bytes depend on beside our own files.
_MADE_BY: Final = (
    "typst",
    "babel",
    "fontpkg-heebo",
    "fontpkg-ibm-plex-sans",
    "fontpkg-ibm-plex-sans-arabic",
    "fontpkg-noto-sans-devanagari",
    "fontpkg-noto-sans-thai",
    "noto-cjk-sans-otc",
)


class CannotTypeset(ValueError):
    """Typst refused; the sentence says what can be done about it."""


def typeset(template: str, content: dict[str, Any], issued_on: date) -> bytes:
    """The PDF that a template makes of a content; characters that no font has are replaced, visibly."""
    return _typesetter().set(_FOLDER / template, _drawable(content), datetime.combine(issued_on, time(), UTC))


@cache
def typesetter() -> str:
    """Which typesetter, fonts and templates these are: the same name makes the same bytes of the same document."""
    versions = [f"{name} {version(name)}" for name in _MADE_BY]
    folder = _FOLDER.parent
    rooms = ("language", "figures", "pdf")
    files = [
        *(file for room in rooms for file in folder.glob(f"{room}/*")),
        *folder.glob("language/locales/*/LC_MESSAGES/*.po"),
    ]
    digest = hashlib.sha256(" ".join(versions).encode())
    for file in sorted(file for file in files if file.is_file()):
        digest.update(file.read_bytes())
    return f"{versions[0]}, {digest.hexdigest()[:12]}"


def _drawable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else drawable(value, _covered())
    if isinstance(value, list):
        return [_drawable(item) for item in value]
    if isinstance(value, dict):
        return {key: _drawable(item) for key, item in value.items()}
    return value


@cache
def _covered() -> frozenset[int]:
    return covered(_FONTS)


class _Typesetter:
    def __init__(self) -> None:
        self._compiler = typst.Compiler(
            str(_FOLDER / "statement.typ"),
            root=str(_FOLDER),
            font_paths=[str(font.parent) for font in _FONTS],
            ignore_system_fonts=True,
        )
        self._lock = threading.Lock()
        self._process: int | None = None

    def set(self, template: Path, content: dict[str, Any], issued: datetime) -> bytes:
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "A document was set before this process was forked. Typst's threads do not survive a fork, and setting "
                "another would wait for ever: set documents in worker processes alone."
            )
        with self._lock:
            self._process = os.getpid()
            try:
                # As data, never as markup: what a customer is called cannot become code.
                pages = self._compiler.compile(
                    input=str(template),
                    format="pdf",
                    sys_inputs={"content": json.dumps(content, ensure_ascii=False)},
                    pdf_standards=_STANDARDS,
                    # The template sets the document's date; this is so that nothing in it can ever read the clock.
                    timestamp=int(issued.timestamp()),
                )
            except typst.TypstError as error:
                # Of what Typst says only the first line: the rest quotes what was to be set.
                raise CannotTypeset(f"Typst cannot set the document: {str(error).splitlines()[0]}.") from None
        if not isinstance(pages, bytes):
            raise TypeError(f"Typst made {type(pages).__name__} of a document, and a PDF file is bytes.")
        return pages


@cache
def _typesetter() -> _Typesetter:
    return _Typesetter()
