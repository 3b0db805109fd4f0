"""`tenure up` and `tenure down`, with real servers and stand-ins for the app's own processes.

Run as a program, this file is the `tenure` of these tests: `python test_supervisor.py up|down VAR [OPTION...]`.
"""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.time.deadlines import deadline
from workers.local import stack as local_stack
from workers.local import supervisor
from workers.local.supervisor import Service

DEADLINE = 30.0

# Says that it serves, has a child as a pool has, and stays.
_STAYS = (
    "import os, subprocess, sys, time; os.environ['TENURE_DATABASE_URL'];"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print('I am ready.', flush=True); time.sleep(600)"
)
_LISTENS = (
    "import os, socket, time; s = socket.create_server(('127.0.0.1', int(os.environ['TENURE_FLOWER_PORT'])));"
    "time.sleep(600)"
)
TABLE = {
    "worker": Service((sys.executable, "-c", _STAYS), says=" ready."),
    "beat": Service((sys.executable, "-c", "import time; time.sleep(600)")),
    "flower": Service((sys.executable, "-c", _LISTENS), listens="TENURE_FLOWER_PORT"),
}
MIGRATE = (
    sys.executable,
    "-c",
    "import os, psycopg; c = psycopg.connect(os.environ['TENURE_DATABASE_URL'], autocommit=True);"
    "c.execute('CREATE TABLE IF NOT EXISTS migrated ()')",
)
STUBBORN = Service(
    (
        sys.executable,
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(' ready.', flush=True); time.sleep(600)",
    ),
    says=" ready.",
    grace=3600.0,
)
BROKEN = (sys.executable, "-c", "raise SystemExit('no such revision')")


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "my var"
    yield folder
    supervisor.down(folder, False, table=TABLE)


def tenure(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("TENURE_")}
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=others | environment,
    )


def finished(command: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = command.communicate(timeout=deadline(120))
    return command.returncode, output


def eventually(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + deadline(DEADLINE)
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def everything(var: Path) -> list[psutil.Process]:
    """All processes that the records of `var` name, with their children."""
    found = []
    for record in (var / "run").glob("*.json"):
        process = psutil.Process(json.loads(record.read_text())["pid"])
        found += [process, *process.children(recursive=True)]
    return found


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(found: list[psutil.Process]) -> bool:
    return eventually(lambda: all(gone(process) for process in found))


def in_front(var: Path, *options: str) -> subprocess.Popen[str]:
    """An `up` that stays in front, and has said that all of it serves."""
    front = tenure("up", var, *options)
    assert front.stdout is not None
    said = []
    for line in front.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            return front
    raise AssertionError("".join(said))


def serving(var: Path) -> bool:
    return all(supervisor.service_pid(var, name) for name in TABLE) and (var / "tenure.env").exists()


def test_detached_it_survives_the_terminal_and_down_ends_exactly_it(var: Path) -> None:
    # A terminal of its own, which closes when `up` has returned.
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, __file__, "up", str(var), "--detach"])  # noqa: S606
    with pytest.raises(OSError, match=r"."):  # Linux ends a closed terminal with an error
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    found = everything(var)
    assert len(found) > 10
    assert serving(var)
    with subprocess.Popen([sys.executable, "-c", _STAYS], env=os.environ | {"TENURE_DATABASE_URL": ""}) as stranger:
        code, said = finished(tenure("down", var))
        assert code == 0
        assert "worker" in said
        assert "postgres" in said
        assert all(gone(process) for process in found)
        assert stranger.poll() is None
        for child in psutil.Process(stranger.pid).children():
            child.kill()
        stranger.kill()
    assert (var / "postgres" / "data").is_dir()
    assert finished(tenure("down", var)) == (0, f"Nothing runs under {var}.\n")


def test_a_shell_can_read_the_addresses(var: Path) -> None:
    assert finished(tenure("up", var, "--detach"))[0] == 0
    path = var / "tenure.env"
    assert path.stat().st_mode & 0o777 == 0o600
    script = f"set -a; . {shlex.quote(str(path))}; env"
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    values = dict(line.split("=", 1) for line in shown if line.startswith("TENURE_"))
    assert values == supervisor.read_environment(var)
    assert values["TENURE_INBOX"] == f"{var}/inbox"
    with psycopg.connect(values["TENURE_DATABASE_URL"]) as connection:
        assert connection.execute("SELECT to_regclass('migrated')").fetchone() == ("migrated",)

    # Whoever has read them and comes back has configured nothing.
    assert finished(tenure("down", var))[0] == 0
    assert finished(tenure("up", var, "--detach", **values))[0] == 0
    assert supervisor.read_environment(var) == values
    assert len(local_stack.running(var)) == 4


def test_a_second_up_changes_nothing(var: Path) -> None:
    assert finished(tenure("up", var, "--detach"))[0] == 0
    found = everything(var)
    code, said = finished(tenure("up", var, "--detach"))
    assert code == 0
    assert "already runs" in said
    assert everything(var) == found


def test_in_front_it_stops_all_on_ctrl_c(var: Path) -> None:
    front = in_front(var)
    second = finished(tenure("up", var))
    assert second[0] == 1
    assert f"(process {front.pid})" in second[1]
    found = everything(var)
    front.send_signal(signal.SIGINT)
    code, said = finished(front)
    assert code == 0
    assert "Stopping" in said
    assert [process for process in found if not gone(process)] == []


def test_a_second_ctrl_c_does_not_wait(var: Path) -> None:
    front = in_front(var, "--stubborn")
    found = everything(var)
    front.send_signal(signal.SIGINT)
    assert front.stdout is not None
    assert any(line.startswith("Stopping") for line in front.stdout)
    # It would wait for an hour else.
    front.send_signal(signal.SIGINT)
    assert front.wait(deadline(60)) == 0
    front.stdout.close()
    assert all_gone(found)


def test_down_ends_an_up_in_front(var: Path) -> None:
    front = in_front(var)
    found = everything(var)
    code, said = finished(tenure("down", var))
    assert code == 0
    assert "flower" in said
    assert finished(front)[0] == 0
    assert [process for process in found if not gone(process)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends an orphan on Linux only")
def test_killed_in_front_it_takes_all_with_it_and_can_start_again(var: Path) -> None:
    front = in_front(var)
    mains = [process for process in everything(var) if process.pid != front.pid]
    servers = local_stack.running(var)
    front.kill()
    front.wait()
    front.stdout.close() if front.stdout else None
    assert all_gone([process for process in mains if process.pid in servers.values()])
    assert finished(tenure("up", var, "--detach"))[0] == 0
    assert serving(var)


def test_in_front_what_dies_is_started_again(var: Path) -> None:
    front = in_front(var)
    worker, valkey = supervisor.service_pid(var, "worker"), local_stack.running(var)["valkey"]
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    os.kill(valkey, signal.SIGKILL)
    assert eventually(lambda: supervisor.service_pid(var, "worker") not in (None, worker))
    assert eventually(lambda: local_stack.running(var).get("valkey") not in (None, valkey))
    # What is stopped on purpose stays stopped.
    supervisor.stop_service(var, "beat", table=TABLE)
    front.send_signal(signal.SIGTERM)
    code, said = finished(front)
    assert code == 0
    assert f"worker (process {worker}) has ended; starting it again" in said
    assert "beat (process" not in said


def test_a_killed_service_can_be_started_again(var: Path) -> None:
    assert finished(tenure("up", var, "--detach"))[0] == 0
    first = supervisor.service_pid(var, "worker")
    assert first is not None
    found = [psutil.Process(first), *psutil.Process(first).children()]
    supervisor.stop_service(var, "worker", kill=True)
    assert len(found) == 2
    assert all(gone(process) for process in found)
    assert supervisor.service_pid(var, "worker") is None
    second = supervisor.start_service(var, "worker", table=TABLE)
    assert second not in (first, None)
    assert supervisor.start_service(var, "worker", table=TABLE) == second

    # By a stranger's kill -9 of the main process: its children are left, and `down` finds them.
    orphans = psutil.Process(second).children()
    os.kill(second, signal.SIGKILL)
    assert eventually(lambda: supervisor.service_pid(var, "worker") is None)
    assert finished(tenure("down", var))[0] == 0
    assert all(gone(process) for process in orphans)


def test_an_address_of_the_environment_takes_the_place_of_a_server(var: Path, tmp_path: Path) -> None:
    with local_stack.servers(tmp_path / "elsewhere", names=["postgres", "valkey"]) as elsewhere:
        configured = {name: elsewhere[name] for name in ("TENURE_DATABASE_URL", "TENURE_BROKER_URL")}
        assert finished(tenure("up", var, "--detach", **configured))[0] == 0
        assert sorted(local_stack.running(var)) == ["inbox", "s3"]
        values = supervisor.read_environment(var)
        assert {name: values[name] for name in configured} == configured
        assert finished(tenure("down", var))[0] == 0
        psycopg.connect(elsewhere["TENURE_DATABASE_URL"]).close()


def test_a_failed_migration_is_told_and_leaves_nothing(var: Path) -> None:
    code, said = finished(tenure("up", var, "--detach", "--broken"))
    assert code == 1
    assert "no such revision" in said
    assert "Traceback" not in said
    assert local_stack.running(var) == {}


def test_a_service_that_ends_is_told_and_leaves_nothing(var: Path) -> None:
    table = {**TABLE, "beat": Service((sys.executable, "-c", "raise SystemExit('no timetable')"))}
    assert supervisor.up(var, True, table=table, services=tuple(table), migrate=MIGRATE) == 1
    assert local_stack.running(var) == {}
    assert not any(supervisor.service_pid(var, name) for name in table)


def test_a_taken_flower_port_is_told(var: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = finished(tenure("up", var, "--detach", TENURE_FLOWER_PORT=str(taken.getsockname()[1])))
    assert code == 1
    assert "TENURE_FLOWER_PORT" in said
    assert local_stack.running(var) == {}


def test_an_unusable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = finished(tenure("up", tmp_path / "file" / "var", "--detach"))
    assert code == 1
    assert "cannot be used" in said
    assert "Traceback" not in said


def test_purge_removes_what_up_made_and_nothing_else(var: Path) -> None:
    assert finished(tenure("up", var, "--detach"))[0] == 0
    (var / "notes.txt").write_text("mine")
    assert finished(tenure("down", var, "--purge"))[0] == 0
    assert [path.name for path in var.iterdir()] == ["notes.txt"]
    code, said = finished(tenure("down", var, "--purge"))
    assert code == 1
    assert "is not a folder of `tenure up`" in said
    assert (var / "notes.txt").read_text() == "mine"


def test_down_of_nothing_is_fine(tmp_path: Path) -> None:
    assert finished(tenure("down", tmp_path / "var")) == (0, f"Nothing runs under {tmp_path / 'var'}.\n")
    assert not (tmp_path / "var").exists()


if __name__ == "__main__":
    verb, place, *options = sys.argv[1:]
    if "--stubborn" in options:
        TABLE["worker"] = STUBBORN
    if verb == "up":
        chosen = BROKEN if "--broken" in options else MIGRATE
        sys.exit(supervisor.up(Path(place), "--detach" in options, tuple(TABLE), table=TABLE, migrate=chosen))
    sys.exit(supervisor.down(Path(place), "--purge" in options, table=TABLE))
