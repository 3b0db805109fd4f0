"""A command that is forked from a warm process is what an operator starts: `tests.support.servers.commands` against the
executable.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from models.base.unit_of_work import Database
from tests.support.rows.company import an_account
from tests.support.servers.commands import Commands, executed
from tests.support.servers.processes import Processes, eventually
from workers.local import processes

#: Runs until it is told to end, with a connection of its own.
LASTING = "relay"


@pytest.fixture
def environment(servers: Mapping[str, str], database_url: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **servers, "TENURE_DATABASE_URL": database_url, "COLUMNS": "100"}


@pytest.fixture
def sessions(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def others(connection: psycopg.Connection) -> int:
    """Connections to this test's database beside the one that asks."""
    return connection.execute("""
        SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        """).rowcount


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--version"], {}),
        (["work", "--help"], {}),
        (["work", "lst"], {}),
        (["work", "list"], {}),
        (["doctor"], {}),
        (["terminate", "Zoë & Søn", "--dry-run"], {}),
        (["export", "verify", "/nowhere"], {}),
        (["work", "list"], {"TENURE_DATABASE_URL": ""}),
        (["work", "list"], {"TENURE_DATABASE_URL": "postgresql://127.0.0.1:1/none"}),
    ],
    ids=" ".join,
)
def test_it_says_and_returns_what_the_executable_does(
    arguments: list[str], changed: dict[str, str], environment: dict[str, str], database: Database, commands: Commands
) -> None:
    with database.transaction() as session:
        an_account(session, ref="Zoë & Søn")
    chosen = environment | changed
    real, forked = executed(tuple(arguments), chosen), commands.run(*arguments, environment=chosen)
    assert real.stdout or real.stderr
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)


def test_nothing_of_a_call_is_left_for_the_next_one(environment: dict[str, str], commands: Commands) -> None:
    unset = {name: value for name, value in environment.items() if name != "TENURE_DATABASE_URL"}
    for _ in range(2):
        assert "TENURE_DATABASE_URL is not set" in commands.run("work", "list", environment=unset).stderr
        assert commands.run("work", "list", environment=environment).returncode == 0


def test_calls_at_the_same_time_keep_their_own_environment(environment: dict[str, str], commands: Commands) -> None:
    names = ["TENURE_DATABASE_URL", "TENURE_BROKER_URL", "TENURE_S3_ACCESS_KEY"] * 3
    without = [{name: value for name, value in environment.items() if name != unset} for unset in names]
    with ThreadPoolExecutor(len(names)) as threads:
        told = list(threads.map(lambda each: commands.run("work", "list", environment=each), without))
    for unset, each in zip(names, told, strict=True):
        assert (each.returncode, each.stdout) == (2, "")
        assert f"tenure: {unset} is not set" in each.stderr


def test_there_is_no_thread_and_no_connection_to_inherit(environment: dict[str, str], commands: Commands) -> None:
    assert commands.run("work", "list", environment=environment).returncode == 0
    process = psutil.Process(commands.pid)
    assert process.num_threads() == 1
    assert process.net_connections("inet") == []
    # Its end of the link to the tests is the only socket.
    sockets = [str(each.readlink()) for each in Path(f"/proc/{commands.pid}/fd").iterdir()]
    assert sum(each.startswith("socket:") for each in sockets) == 1


def test_what_means_something_before_python_begins_is_refused(environment: dict[str, str], commands: Commands) -> None:
    with pytest.raises(AssertionError, match="PYTHONUTF8"):
        commands.run("--version", environment=environment | {"PYTHONUTF8": "0"})


def test_a_call_that_takes_too_long_is_killed(
    environment: dict[str, str], commands: Commands, sessions: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(commands.run, LASTING, environment=environment, seconds=5)
        eventually(lambda: others(sessions), "it is connected")
        with pytest.raises(subprocess.TimeoutExpired):
            running.result()
    eventually(lambda: not others(sessions), "it is gone")


#: A module that says what `python -m` and the kernel gave it, as JSON, and stays.
TELLS = """
import json, os, sys, threading
told = {
    "arguments": sys.argv[1:], "environment": dict(os.environ), "directory": os.getcwd(), "path": sys.path[:2],
    "name": __name__, "group": os.getpgid(0) == os.getpid(), "session": os.getsid(0) == os.getpid(),
    "input": os.readlink("/proc/self/fd/0"), "output": os.readlink("/proc/self/fd/1"),
    "errors": os.readlink("/proc/self/fd/2"), "others": sorted(set(os.listdir("/proc/self/fd")) - {"0", "1", "2"})[1:],
}
print(json.dumps(told), file=sys.stderr)
print("ready")
threading.Event().wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_stays_gets_what_an_executed_one_gets(
    servers: Mapping[str, str], commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS, encoding="utf-8")
    told = []
    for forked in (None, commands):
        with Processes(servers | {"PYTHONPATH": str(tmp_path)}, tmp_path, forked) as started:
            running = started.run("tells", ["tells", "--name=Zoë"], lambda running: "ready" in running.text(), lease=2)
            told.append(json.loads(running.text().splitlines()[0]))
            running.kill()
            running.start()
            assert running.alive()
            assert running.all_text().count("ready") == 2, "a second life writes to the same log"
            process = running.process
        assert process is not None
        assert not processes.alive(process), "it ended with the test"
        running.log.unlink()
    executed_one, forked_one = told
    assert forked_one == executed_one
    assert executed_one["session"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends them")
def test_a_process_that_stays_ends_with_killed_tests(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(TELLS, encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from tests.support.servers.commands import Commands\n"
        "directory = Path(sys.argv[1]); environment = json.loads(sys.argv[2])\n"
        "made = Commands().start('tells', [], environment=environment, directory=directory, log=directory / 'log')\n"
        "print(made.pid, flush=True); input()"
    )
    started = [sys.executable, "-c", program, str(tmp_path), json.dumps(environment)]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        staying = processes.identify(int(tests.stdout.readline()))
        assert staying is not None
        tests.send_signal(signal.SIGKILL)
    assert processes.wait_until_gone([staying], 60)


def test_killed_tests_leave_no_command(environment: dict[str, str], sessions: psycopg.Connection) -> None:
    program = (
        "import json, sys; from tests.support.servers.commands import Commands\n"
        "commands = Commands(); print(commands.pid, flush=True)\n"
        f"commands.run({LASTING!r}, environment=json.loads(sys.argv[1]))"
    )
    started = [sys.executable, "-c", program, json.dumps(environment)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        warm = processes.identify(int(tests.stdout.readline()))
        assert warm is not None
        eventually(lambda: others(sessions), "the command is connected")
        tests.send_signal(signal.SIGKILL)
    assert processes.wait_until_gone([warm], 10)
    eventually(lambda: not others(sessions), "the command is gone")
