"""Translations: gettext catalogues read from their `.po` files at first use (E7), so none is ever out of date."""

from __future__ import annotations

import gettext
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

#: The language in which the messages are written.
SOURCE: Final = "en"
_FOLDER: Final = Path(__file__).parent / "locales"


@cache
def languages() -> tuple[str, ...]:
    """Those that a message can be written in: English, and each with a catalogue."""
    translated = sorted(path.parent.parent.name for path in _FOLDER.glob("*/LC_MESSAGES/messages.po"))
    return (SOURCE, *translated)


@cache
def translations(language: str) -> gettext.NullTranslations:
    """The catalogue of one of `languages()`."""
    if language == SOURCE:
        return gettext.NullTranslations()
    # Only a process that writes mail pays for Babel's catalogue reader.
    from babel.messages.mofile import write_mo  # noqa: PLC0415
    from babel.messages.pofile import read_po  # noqa: PLC0415

    compiled = BytesIO()
    with (_FOLDER / language / "LC_MESSAGES" / "messages.po").open("rb") as source:
        write_mo(compiled, read_po(source, locale=language, abort_invalid=True))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
