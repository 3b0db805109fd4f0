"""What commands print: sentences instead of tracebacks, counted nouns, JSON for programs.

A command that fails prints one sentence on stderr and exits with 1 where somebody has to act, such as with a server
that is away, or with 2 where the command itself, its arguments or the settings are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import IO, Any, ParamSpec

import click
import msgspec
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import is_outage, outage_reason, refusal
from tasks.failures import Failure
from workers.settings.settings import SettingsError

P = ParamSpec("P")


class CommandFailed(click.ClickException):
    """End the command: print the sentence on stderr, exit with 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tenure: {self.message}", file=file, err=True)


class WrongUse(CommandFailed):
    """End the command, whose arguments or settings are wrong: print the sentence on stderr, exit with 2."""

    exit_code = 2


def reports_errors(command: Callable[P, int | None]) -> Callable[P, None]:
    """Report settings, outages, refusals and failures in one sentence, and exit with the code that `command` returns.

    A wrong setting and what the database refuses exit with 2; a PostgreSQL that is away and a Failure exit with 1.
    Every other error is a bug, and keeps its traceback.
    """

    @wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except SettingsError as error:
            raise WrongUse(str(error)) from error
        except Failure as failure:
            raise CommandFailed(str(failure)) from failure
        except DBAPIError as error:
            if (why := refusal(error)) is not None:
                raise WrongUse(why) from error
            if is_outage(error):
                raise CommandFailed(
                    f"PostgreSQL (TENURE_DATABASE_URL) cannot be used: {outage_reason(error)}"
                ) from error
            raise
        if code:
            click.get_current_context().exit(code)

    return reporting


@contextmanager
def wrong_use(*errors: type[Exception]) -> Iterator[None]:
    """Report these errors as wrong use."""
    try:
        yield
    except errors as error:
        raise WrongUse(str(error)) from error


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`, `28 countries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_json(value: Any, *, lines: bool = False) -> None:
    """For `--json`: what JSON has no type for, such as a date, is written as text. `lines`: one of several, each alone
    on its line."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    click.echo(encoded.decode() if lines else msgspec.json.format(encoded, indent=2))
