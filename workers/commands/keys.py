"""`tenure keys`: which key-encryption keys wrap the keys of accounts, and the change to another one (T27).

Exit codes: 0 fine, 1 a key is under a key-encryption key that is not set, or left under an old one, 2 wrong settings.
"""

from __future__ import annotations

from collections.abc import Mapping

import click
from rich.console import Console
from rich.table import Table

from models.base.unit_of_work import Database
from tasks.crypto.keyring import Keyring
from tasks.crypto.wrapping import SETTING
from tasks.failures import Failure
from tasks.storage import rewrapping
from workers.settings.settings import Settings, settings
from workers.terminal.options import as_json
from workers.terminal.output import counted, print_json, reports_errors, wrong_use

keys = click.Group("keys", help="Key-encryption keys wrap them, and can be replaced.")


def state(names: tuple[str, ...], name: str) -> str:
    """Of a key-encryption key: `new keys`, `old keys`, or `not set`."""
    return "not set" if name not in names else "new keys" if name == names[0] else "old keys"


@keys.command()
@as_json
@reports_errors
def show(json: bool) -> int:
    """Show how many keys each key-encryption key wraps.

    Exits with 1 if a key-encryption key that wraps something is not set.
    """
    with wrong_use(Failure):
        chosen = settings()
        names = Keyring(chosen.key_encryption_keys).names
        held = _held(chosen)
    lines = [(name, state(names, name), held.get(name, 0)) for name in (*names, *sorted(held.keys() - set(names)))]
    if json:
        print_json([{"key": name, "wraps": what, "keys": number} for name, what, number in lines])
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("key-encryption key")
        table.add_column("wraps")
        table.add_column("keys of accounts", justify="right")
        for name, what, number in lines:
            table.add_row(name, what, f"{number:,}")
        Console(highlight=False).print(table)
    return int(any(what == "not set" for _, what, _ in lines))


@keys.command()
@reports_errors
def rewrap() -> int:
    """Wrap every key with the first of TENURE_KEY_ENCRYPTION_KEYS.

    Exits with 1 if keys are left under another one. No object is touched, and nothing has to stop meanwhile. If it
    is interrupted, run it again.
    """
    with wrong_use(Failure):
        chosen = settings()
        database = Database(chosen.database_url, pool_size=1)
        done = rewrapping.rewrap(database, Keyring(chosen.key_encryption_keys))
    click.echo(f"{counted(done.rewrapped, 'key')} wrapped anew by {done.current}.")
    for reason, number in done.refused.items():
        click.echo(f"{counted(number, 'key')} left as before: {reason}")
    for name, number in done.remaining.items():
        click.echo(f"{counted(number, 'key')} still under {name}.")
    if not done.remaining:
        click.echo(f"None is under another one: {SETTING} needs {done.current} alone.")
    elif not done.refused:
        click.echo(
            "They were in use, or were made meanwhile by a process that has another key first: see that all have "
            f"{done.current} first, and run this again."
        )
    return int(bool(done.remaining))


def _held(chosen: Settings) -> Mapping[str, int]:
    with Database(chosen.database_url, pool_size=1).transaction() as session:
        return rewrapping.wrapped_by(session)
