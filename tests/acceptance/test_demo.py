"""`tenure demo` as a newcomer runs it, broken off, and with its worker killed and its broker emptied in the middle."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes
from io import TextIOWrapper
from pathlib import Path
from time import monotonic
from zipfile import ZipFile

import psutil
import psycopg
import pytest
import redis

from tests.support.servers.processes import eventually, measured
from tests.support.time.deadlines import deadline
from workers.demo.interruption import Interrupted, signals
from workers.local import supervisor
from workers.local.errors import EmbeddedServerError

TENURE = [sys.executable, "-m", "workers.commands"]
PATIENCE = 280

pytestmark = pytest.mark.timeout(400)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TENURE_")}


@contextmanager
def a_demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo under way, with no terminal; whatever happens, nothing of it is left."""
    with (folder / "said.txt").open("w") as said:
        demo = subprocess.Popen(
            [*TENURE, "demo", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            # A proxy that answers nobody: the demo speaks with this machine alone.
            env=environment() | dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1"),
        )
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.terminate()
            with suppress(subprocess.TimeoutExpired):
                demo.wait(deadline(60))
            demo.kill()
            demo.wait()
        subprocess.run([*TENURE, "down", "--var", str(folder / "var/demo")], capture_output=True, check=False)


def _gone(folder: Path) -> str:
    """How the addresses of the customer end who has left, as the demo says."""
    found = re.search(r"tenure terminate (C-\d+) --dry-run", said(folder))
    assert found, said(folder)
    return f"@{found[1].lower()}.example"


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def of_the_demo(folder: Path) -> list[str]:
    """The processes that work in or for the demo's folder, by their command lines and records."""
    found = []
    recorded = set()
    for file in (folder / "var/demo/run").glob("*.json"):
        # Whoever ends a process takes its record away, perhaps just now.
        with suppress(FileNotFoundError):
            recorded.add(json.loads(file.read_text())["pid"])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            ours = str(folder) in command or process.pid in recorded or process.cwd().startswith(str(folder))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {command}")
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that was run to its end."""
    folder = tmp_path_factory.mktemp("demo")
    began = monotonic()
    with a_demo(folder, "--accounts", "20") as demo:
        assert demo.wait(deadline(PATIENCE)) == 0, said(folder)
        assert of_the_demo(folder) == []
    measured(f"tenure demo --accounts 20: {monotonic() - began:.1f} s")
    return folder


def test_it_shows_what_it_does_and_finds_it_good(finished: Path) -> None:
    shown = said(finished)
    # Plain lines: no colours, no cursor movements.
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "✗" not in shown
    assert shown.count("✓") >= 23
    assert "All checks hold" in shown
    assert re.search(r"statements +\d\d  .*currencies", shown)
    assert re.search(r"mails +\d\d  .*each once", shown)
    assert re.search(r"in quarantine +1 ", shown)
    assert '"statements.send" has no argument "acount"' in shown
    assert (finished / "var/demo/statement.pdf").read_bytes().startswith(b"%PDF-")
    assert list((finished / "var/demo/inbox").glob("*.eml"))
    # Twelve were invoiced, most of them paid, and each once.
    assert shown.count("INV-0000") >= 12
    assert "card declined, customer told" in shown
    assert re.search(r"collected once +8 charges at the provider, the same 8", shown)
    assert (finished / "var/demo/invoice.pdf").read_bytes().startswith(b"%PDF-")
    # One customer has left: what the customer has opens and is whole, and the certificate holds without any server.
    assert "Certificate of erasure  PC-" in shown
    assert re.search(r"payment customers in stripe +deleted +1 +1 ", shown)
    assert re.search(r"nothing of them is left +\d+ tables", shown)
    demo = finished / "var/demo"
    for command in (
        ("export", "verify", demo / "record.zip"),
        ("certificate", "verify", demo / "certificate.json", "--key", demo / "certificate.pem"),
    ):
        told = subprocess.run(
            [*TENURE, *command], cwd=finished, capture_output=True, text=True, check=False, env=environment()
        )
        assert told.returncode == 0, told.stderr
        assert "as it was" in told.stdout
    with ZipFile(demo / "record.zip") as record:
        with record.open("tables/tenure.contacts.csv") as file:
            people = list(csv.DictReader(TextIOWrapper(file, "utf-8-sig")))
        assert people
        assert all(row["email"].endswith(_gone(finished)) for row in people)
        assert [name for name in record.namelist() if name.endswith(".pdf")]
    # Only its own folder, and the lock beside it.
    assert sorted(path.name for path in (finished / "var").iterdir()) == ["demo", "demo.lock"]


def test_again_in_the_same_place_and_on_a_terminal(finished: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(finished)
        os.execve(  # noqa: S606
            sys.executable,
            [*TENURE, "demo", "--accounts", "2"],
            environment() | {"TERM": "xterm-256color", "COLUMNS": "80"},
        )
    shown = b""
    with suppress(OSError):  # Linux ends a closed terminal with an error
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    assert b"\x1b[32m" in shown
    assert "━".encode() in shown
    assert b"All checks hold" in shown
    assert of_the_demo(finished) == []


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGINT, "starting"),
        (signal.SIGKILL, "starting"),
        (signal.SIGINT, "working"),
        (signal.SIGTERM, "working"),
        (signal.SIGKILL, "working"),
    ],
)
def test_broken_off_it_leaves_nothing_running(tmp_path: Path, number: signal.Signals, stage: str) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("the kernel ends an orphan on Linux only")
    with a_demo(tmp_path, "--accounts", "150") as demo:
        if stage == "starting":
            eventually((tmp_path / "var/demo/run/valkey.json").exists, "a server is started")
        else:
            eventually(lambda: "by the clock" in said(tmp_path), "work is asked for")
        demo.send_signal(number)
        code = demo.wait(deadline(90))
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        eventually(lambda: not of_the_demo(tmp_path), f"nothing of it runs: {of_the_demo(tmp_path)}")
    assert "Traceback" not in said(tmp_path)


def test_what_is_broken_off_may_fail_on_its_way_out() -> None:
    """A connection that is interrupted in the middle of an answer raises an error of its own."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            int("in the middle of an answer")
    with pytest.raises(ValueError, match="nobody asked"), signals():
        int("nobody asked")
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_at_a_time(tmp_path: Path) -> None:
    with a_demo(tmp_path) as demo:
        eventually((tmp_path / "var/demo/run").exists, "the first has begun")
        second = subprocess.run(
            [*TENURE, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment()
        )
        assert second.returncode == 1
        assert "Another `tenure demo` is at work" in second.stderr
        assert demo.poll() is None


def test_what_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "var/demo"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with a_demo(tmp_path) as demo:
        assert demo.wait(deadline(60)) == 1
    assert "holds what the demo did not make (thesis.txt)" in said(tmp_path)
    assert (folder / "thesis.txt").read_text() == "mine"


def _broken_in_the_middle(folder: Path, accounts: int, fault: Callable[[Path, dict[str, str]], None]) -> int:
    """Run a demo, cause `fault` when some but not all statements are done; its exit code. The stack is kept."""
    stack = folder / "var/demo"
    with a_demo(folder, "--keep", "--accounts", str(accounts)) as demo:
        values: dict[str, str] = {}

        def addresses() -> bool:
            with suppress(EmbeddedServerError):
                values.update(supervisor.read_environment(stack))
            assert demo.poll() is None, said(folder)
            return bool(values)

        eventually(addresses, "the stack is up")
        eventually(lambda: "by the clock" in said(folder), "work is asked for", seconds=120)
        with psycopg.connect(values["TENURE_DATABASE_URL"], autocommit=True) as connection:

            def in_the_middle() -> bool:
                row = connection.execute(
                    "SELECT count(*), count(*) FILTER (WHERE state = 'done'),"
                    " (SELECT count(*) FROM tenure.accounts WHERE statement_due_at <= now()) FROM tenure.statements"
                ).fetchone()
                assert row is not None
                if row[2]:
                    return False  # not all are planned yet
                assert row[1] < row[0], "all statements were done before the fault could be caused"
                return bool(row[1] >= row[0] // 4)

            eventually(in_the_middle, "some statements are done, and not all", seconds=120)
            fault(stack, values)
            code = demo.wait(deadline(PATIENCE))
            _each_once(connection, stack, code)
        return code


def _each_once(connection: psycopg.Connection[tuple[object, ...]], stack: Path, code: int) -> None:
    """Every statement once; every message once but for what nobody can tell (E10), which is there once at most."""
    statements = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE state = 'done'), count(DISTINCT document_key) FROM tenure.statements"
    ).fetchone()
    assert statements is not None
    assert statements[0] == statements[1] == statements[2]
    states = dict(connection.execute("SELECT message_id, state FROM tenure.email_messages").fetchall())
    arrived: Counter[str] = Counter()
    gone = _gone(stack.parent.parent)
    for file in (stack / "inbox").glob("*.eml"):
        message = str(message_from_bytes(file.read_bytes())["Message-ID"]).strip("<>")
        (recipient,) = json.loads(file.with_suffix(".json").read_text())["rcpt_tos"]
        # Of whoever has left, nothing is known any more but the last letters.
        if message in states or not recipient.endswith(gone):
            arrived[message] += 1
    assert set(states.values()) <= {"done", "unknown"}
    unknown = {message for message, state in states.items() if state == "unknown"}
    assert arrived.keys() <= states.keys()
    assert states.keys() - arrived.keys() <= unknown
    assert set(arrived.values()) == {1}
    # One for each process of the pool that was killed between its mark and the server's answer, and no more.
    assert len(unknown) <= 2
    measured(f"unknown after the fault: {len(unknown)} of {len(states)} mails")
    assert code == (1 if unknown else 0), (stack.parent.parent / "said.txt").read_text()


def test_its_worker_is_killed_in_the_middle_of_the_statements(tmp_path: Path) -> None:
    def kill(stack: Path, _values: dict[str, str]) -> None:
        supervisor.stop_service(stack, "worker", kill=True)
        supervisor.start_service(stack, "worker")

    code = _broken_in_the_middle(tmp_path, 60, kill)
    if code:
        assert "may or may not have been sent (unknown)" in said(tmp_path)


def test_its_broker_is_emptied_in_the_middle_of_the_statements(tmp_path: Path) -> None:
    def flush(_stack: Path, values: dict[str, str]) -> None:
        redis.Redis.from_url(values["TENURE_BROKER_URL"]).flushall()

    assert _broken_in_the_middle(tmp_path, 60, flush) == 0, said(tmp_path)
