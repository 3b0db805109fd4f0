"""What commands print: sentences instead of tracebacks, counted nouns, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import is_outage, outage_reason
from workers.settings.settings import SettingsError


@contextmanager
def in_words() -> Iterator[None]:
    """End a command with one clear line, not a traceback, where settings or PostgreSQL are the trouble."""
    try:
        yield
    except SettingsError as error:
        click.echo(f"tenure: {error}", err=True)
        sys.exit(2)
    except DBAPIError as error:
        if not is_outage(error):
            raise
        click.echo(f"tenure: PostgreSQL (TENURE_DATABASE_URL) cannot be used: {outage_reason(error)}", err=True)
        sys.exit(1)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`, `28 countries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_json(value: Any, *, lines: bool = False) -> None:
    """For `--json`: what JSON has no type for, such as a date, is written as text. `lines`: one of several, each alone
    on its line."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    click.echo(encoded.decode() if lines else msgspec.json.format(encoded, indent=2))
