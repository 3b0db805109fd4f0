"""The `tenure` command: where it begins.

To add a subcommand, declare it in the module of its group. To add a group or a top-level command, declare it in a
module under its own name (`download-page` as `download_page`) and give it a row in `COMMANDS`
(`workers/commands/table.py`).

`tenure --help` is answered from the table: importing click takes four times as long as starting Python.
"""

from __future__ import annotations

import sys

from workers.commands.table import COMMANDS

#: As click prints it on a terminal of 80 columns, whatever the terminal's width.
OVERVIEW = """\
Usage: tenure [OPTIONS] COMMAND [ARGS]...

  Tenure does the background work that a privacy policy promises: statements,
  mail, session sweeps.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
"""


def overview() -> str:
    """Return what `tenure --help` prints."""
    return OVERVIEW + "".join(f"  {name:<13}  {line}\n" for name, (_module, line) in sorted(COMMANDS.items()))


def main() -> None:
    """Run the command that the command line names."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        sys.stdout.write(overview())
        return
    from workers.commands.group import cli  # noqa: PLC0415 - it imports click

    cli(prog_name="tenure")
