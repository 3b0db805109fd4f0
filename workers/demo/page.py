"""How the demo looks: headings, steps and figures in the same columns, one colour for good and one for bad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

#: No wider than this, however wide the terminal is: figures far from their names are hard to read.
WIDEST = 100
#: Where the second column begins, here and in the bars of `watching`.
NAMES = 16
FINDINGS = 31
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"


class Page:
    def __init__(self, console: Console) -> None:
        self.console = console
        console.width = min(console.width, WIDEST)

    def heading(self, words: str) -> None:
        self.console.print()
        self.console.print(Rule(words, style="bright_black", align="left"))

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """A line that says `name` while it is done, and has a mark when it is; what is appended stands beside it."""
        said: list[str] = []
        status = self.console.status(Text(name, style=_QUIET), spinner="dots") if self.console.is_terminal else None
        with status or nullcontext():
            yield said
        if said:
            self._row(NAMES, self._marked(name), Text(" ".join(said), style=_QUIET))
        else:
            self.console.print(self._marked(name))

    def finding(self, name: str, figure: str, *, holds: bool) -> None:
        self._row(FINDINGS, self._marked(name, holds=holds), Text(figure, style=_QUIET if holds else _BAD))

    def figure(self, name: str, number: str, speed: str, note: str) -> None:
        table = self._grid(NAMES)
        table.add_column(width=8, justify="right", no_wrap=True)
        table.add_column(width=12, justify="right", no_wrap=True)
        table.add_column(ratio=1)
        table.add_row(f"  {name}", number, speed, Text(note, style=_QUIET))
        self.console.print(table)

    def place(self, name: str, where: str) -> None:
        self._row(NAMES, Text(f"  {name}"), Text(where, style="" if name else _QUIET))

    def line(self, words: str) -> None:
        self.console.print(Text(words), soft_wrap=True)

    def verdict(self, wrong: Sequence[str], seconds: float) -> None:
        self.console.print()
        if not wrong:
            self.console.print(Text.assemble(("✓ All checks hold", _GOOD), f", {seconds:.0f} s after the start."))
            return
        self.console.print(Text(f"✗ {len(wrong)} of the checks failed:", style=_BAD))
        for sentence in wrong:
            self.line(f"  {sentence}")

    def _marked(self, name: str, *, holds: bool = True) -> Text:
        return Text.assemble(("✓ ", _GOOD) if holds else ("✗ ", _BAD), name)

    def _row(self, width: int, first: Text, second: Text) -> None:
        table = self._grid(width)
        table.add_column(ratio=1, overflow="fold")
        table.add_row(first, second)
        self.console.print(table)

    def _grid(self, width: int) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(width=width, no_wrap=True)
        return table
