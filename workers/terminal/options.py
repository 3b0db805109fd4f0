"""Options that several commands share."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

DAY = click.DateTime(["%Y-%m-%d"])
FILE = click.Path(path_type=Path, dir_okay=False)

as_json = click.option("--json", is_flag=True, help="Print JSON, for programs.")
by_person = click.option(
    "--by", metavar="NAME", default=getpass.getuser, help="Who does this; by default the user who is logged in."
)
limit = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Print at most this many."
)
