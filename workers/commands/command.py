"""Where the `tenure` command begins: its help is answered at once, all else by `workers/commands/cli.py`.

Importing click takes several times as long as starting Python. `help.txt` is what click says of the declarations in
`cli.py`, kept; a test compares the two, and `python -m workers.command` writes it anew.
"""

from __future__ import annotations

import os
import sys

#: What click makes of a terminal of 80 columns: a file has one width, and this one suits every terminal.
WIDTH = 78
# pathlib alone would take as long as all the rest.
KEPT = os.path.join(os.path.dirname(__file__), "help.txt")  # noqa: PTH118, PTH120


def main() -> None:
    """The console script."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        with open(KEPT, encoding="utf-8") as kept:  # noqa: PTH123
            sys.stdout.write(kept.read())
        return
    from workers.commands.cli import cli  # noqa: PLC0415 - it is what takes long

    cli(prog_name="tenure")


def help_text() -> str:
    """The help as click makes it of the declarations."""
    import click  # noqa: PLC0415

    from workers.commands.cli import cli  # noqa: PLC0415

    names = cli.context_settings["help_option_names"]
    context = click.Context(
        cli, info_name="tenure", terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=names
    )
    return cli.get_help(context) + "\n"


if __name__ == "__main__":
    with open(KEPT, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
        file.write(help_text())
