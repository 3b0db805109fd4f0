"""The click group of all commands: it imports the module of a command only when that command is called."""

from __future__ import annotations

from importlib import import_module
from inspect import cleandoc

import click

from workers.commands.table import ABOUT, COMMANDS


class Commands(click.Group):
    """The group of `COMMANDS`. Listing them, as `tenure --help` does, imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module, line = COMMANDS[cmd_name]
            command: click.Command = getattr(import_module(module), cmd_name.replace("-", "_"))
            command.help = f"{line}\n\n{cleandoc(command.help)}" if command.help else line
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tenure")
def cli() -> None:
    pass


cli.help = ABOUT
