"""Every `tenure` command, and arguments for it that the parser accepts."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import click

from workers.commands.group import cli

#: They start or stop the local stack: they need no settings, and end in their own time.
LOCAL = {"demo", "down", "up"}


def commands(name: str) -> Iterator[tuple[list[str], click.Command]]:
    """A top-level command, and all subcommands of a group, each with the words by which it is called."""
    top = cli.get_command(click.Context(cli), name)
    assert top is not None
    yield [name], top
    if isinstance(top, click.Group):
        yield from (([name, sub], command) for sub, command in top.commands.items())


def arguments(command: click.Command, folder: str) -> list[str]:
    """Arguments that the parser accepts: one for each parameter that is required."""
    given: list[str] = []
    for parameter in command.params:
        if parameter.required:
            given += [*parameter.opts[:1], value(parameter, folder)][isinstance(parameter, click.Argument) :]
    return given


def value(parameter: click.Parameter, folder: str) -> str:
    match parameter.type:
        case click.Choice(choices=choices):
            return str(choices[0])
        case click.IntRange(min=least):
            return str(least)
        case click.DateTime():
            return "2101-12-24"
        case click.Path():
            return f"{folder}/file"
        case click.types.UUIDParameterType():
            return str(UUID(int=7))
        case _:
            return "acme"
