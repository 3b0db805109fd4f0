"""A command reports an error in one sentence with an exit code; a bug keeps its traceback."""

from __future__ import annotations

import click
import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from tasks.failures import Permanent, Unavailable
from workers.settings.settings import SettingsError
from workers.terminal.output import CommandFailed, WrongUse, reports_errors, wrong_use


def run(error: Exception | int | None) -> tuple[int, str]:
    @click.command()
    @reports_errors
    def command() -> int | None:
        if isinstance(error, Exception):
            raise error
        return error

    done = CliRunner().invoke(command)
    assert done.stdout == ""
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (1, 1, ""),
        (130, 130, ""),
        (SettingsError("TENURE_X is not set."), 2, "tenure: TENURE_X is not set.\n"),
        (Permanent("There is no such row."), 1, "tenure: There is no such row.\n"),
        (Unavailable("S3 is away."), 1, "tenure: S3 is away.\n"),
        (CommandFailed("Nothing is there."), 1, "tenure: Nothing is there.\n"),
        (WrongUse("Give one."), 2, "tenure: Give one.\n"),
        (
            OperationalError("SELECT 1", {}, psycopg.OperationalError("connection refused\nIs it running?")),
            1,
            "tenure: PostgreSQL (TENURE_DATABASE_URL) cannot be used: connection refused\n",
        ),
        (
            IntegrityError("INSERT", {}, psycopg.errors.CheckViolation()),
            2,
            "tenure: the database refused the request.\n",
        ),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(error: Exception | int | None, code: int, said: str) -> None:
    assert run(error) == (code, said)


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError("division by zero"), ProgrammingError("SELEC", {}, psycopg.errors.SyntaxError())]
)
def test_a_bug_is_not_swallowed(bug: Exception) -> None:
    @click.command()
    @reports_errors
    def command() -> int:
        raise bug

    assert CliRunner().invoke(command).exception is bug


def test_an_error_of_a_library_is_reported_as_wrong_use_where_that_is_said() -> None:
    with pytest.raises(WrongUse, match="no field of that name"), wrong_use(KeyError, ValueError):
        raise ValueError("no field of that name")
    with pytest.raises(TypeError), wrong_use(ValueError):
        raise TypeError
