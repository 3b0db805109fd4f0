"""The names of files in an archive: every system can unpack them, whatever a table or a customer's file is called."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from models.data_map.map import MAIN, MappedTable, ObjectPrefix

TABLES: Final = "tables"
FILES: Final = "files"
#: Octets of one part of a path: file systems take 255, and a person wants to read it.
_LONGEST: Final = 150
#: What Windows takes for a device, whatever its ending.
_DEVICES: Final = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_FORBIDDEN: Final = re.compile(r'[<>:"|?*\\/]')


class Names:
    """Names for one archive: no two alike, not even where a system does not tell capitals from small letters.

    Nor is one a file and a folder at once, as keys of an object store may be: nobody could unpack both.
    """

    def __init__(self) -> None:
        #: Of files and folders, with the last number that was given to one of that name.
        self._taken: dict[str, int] = {}
        #: What each folder is called, by what it would be called.
        self._folders: dict[str, str] = {}

    def table(self, table: MappedTable) -> str:
        """`tables/public.invoice.csv`; of another database `tables/shop/public.invoice.csv`."""
        folder = [TABLES] if table.database == MAIN else [TABLES, table.database]
        return self._unlike(folder, f"{table.name.schema}.{table.name.table}.csv")

    def object(self, prefix: ObjectPrefix, filled: str, key: str, name: str | None = None) -> str:
        """`files/statements/…`: the key without the account, which all share, and with `name` for its last part."""
        fixed = [FILES, *prefix.prefix.partition("{")[0].split("/")]
        if fixed[1] == FILES:
            del fixed[1]
        *folders, last = key.removeprefix(filled).split("/")
        return self._unlike([*fixed, *folders], last if name is None else name.replace("/", "_"))

    def _unlike(self, folders: list[str], name: str) -> str:
        within = ""
        for each in filter(None, map(_safe, folders)):
            wanted = f"{within}{each}".casefold()
            if wanted not in self._folders:
                self._folders[wanted] = self._free(within, each, "", "")
            within = f"{self._folders[wanted]}/"
        # A key that ends with a slash stands for the folder itself.
        name = _safe(name) or "_"
        stem, dot, ending = name.rpartition(".")
        return self._free(within, stem, dot, ending) if stem else self._free(within, name, "", "")

    def _free(self, within: str, stem: str, dot: str, ending: str) -> str:
        path = wanted = f"{within}{stem}{dot}{ending}"
        number = self._taken.get(wanted.casefold(), 1)
        while path.casefold() in self._taken:
            number += 1
            path = f"{within}{stem} ({number}){dot}{ending}"
        self._taken[wanted.casefold()] = number
        self._taken.setdefault(path.casefold(), 1)
        return path


def _safe(part: str) -> str:
    """No path, no device, no control or invisible character, no end that Windows drops; empty only where it was."""
    if not part:
        return ""
    # Format characters are among those left out: some of them turn the direction of what follows.
    shown = "".join(c for c in unicodedata.normalize("NFC", part) if unicodedata.category(c)[0] != "C")
    shown = _FORBIDDEN.sub("_", shown).strip(" ").rstrip(". ")
    if not shown or _DEVICES.fullmatch(shown):
        shown = f"_{shown}"
    stem, dot, ending = shown.rpartition(".")
    if len(shown.encode()) <= _LONGEST:
        return shown
    if not stem or len(ending.encode()) > 16:
        return _cut(shown, _LONGEST)
    return _cut(stem, _LONGEST - len(ending.encode()) - 1) + dot + ending


def _cut(text: str, octets: int) -> str:
    return text.encode()[:octets].decode(errors="ignore")
