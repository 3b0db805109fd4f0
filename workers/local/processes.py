"""Processes we started: recognise them later, and end exactly those.

A pid alone may have been given to a stranger since. Together with the time of its start, counted by the kernel from
boot and so untouched by a clock that is set, it names one process for ever.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from workers.local.errors import EmbeddedServerError

_LAUNCHER = Path(__file__).with_name("launch.py")
_HAS_PROC = Path("/proc/self/stat").exists()
_LOG_LIMIT = 20 * 2**20
_POLL = 0.01
_ORPHAN_GRACE = 2.0

# Our own children, by pid: a dead child stays in the process table until its parent has asked for it.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """One process, and never its successor with the same pid."""

    pid: int
    started: str


@dataclass(frozen=True)
class Identity:
    """Run as this user; `enter_closed` if a directory on the way is closed to it (only root can grant that)."""

    user: int
    group: int
    enter_closed: bool


def _start_mark(pid: int) -> str | None:
    """When the living process `pid` began, in the kernel's words; None if there is none or it is a zombie."""
    if _HAS_PROC:
        try:
            # The name, in parentheses, may itself hold anything; the third field follows its end.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def identify(pid: int) -> Process | None:
    """The living process that has this pid now."""
    started = _start_mark(pid)
    return None if started is None else Process(pid, started)


def alive(process: Process) -> bool:
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        _children.pop(process.pid, None)
    return _start_mark(process.pid) == process.started


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    directory: Path,
    attached: bool,
    death_signal: signal.Signals = signal.SIGKILL,
    identity: Identity | None = None,
) -> Process:
    """Start `command` in a session of its own, so that neither Ctrl-C nor a closing terminal reaches it.

    An attached process is sent `death_signal` when the *thread* that called this ends, in whichever way (Linux only).
    """
    options: list[str] = []
    environment = dict(environment)
    if identity is not None and (preloaded := environment.pop("LD_PRELOAD", None)):
        # Not into the launcher: libfaketime makes files named by the pid, and they would belong to the launcher's user.
        command = ["/usr/bin/env", f"LD_PRELOAD={preloaded}", *command]
    if attached and sys.platform == "linux":
        options += ["--die-with", str(os.getpid()), str(int(death_signal))]
    if identity is not None:
        options += ["--user", str(identity.user), str(identity.group)]
        options += ["--enter-closed"] if identity.enter_closed else []
    if options:
        command = [sys.executable, "-I", "-S", str(_LAUNCHER), *options, "--", *command]
    make_room(log)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    _children[child.pid] = child
    # A child that has died already is a zombie and has no mark any more: then none will ever be equal to "".
    return identify(child.pid) or Process(child.pid, "")


def exit_code(child: Process, seconds: float, impatient: Callable[[], bool] = lambda: False) -> int | None:
    """Wait for a child of ours to end; when `seconds` are over, or the caller is impatient, kill it: None."""
    handle = _children.pop(child.pid)
    deadline = time.monotonic() + seconds
    while handle.poll() is None:
        if time.monotonic() >= deadline or impatient():
            handle.kill()
            handle.wait()
            return None
        time.sleep(_POLL)
    return handle.returncode


def family(process: Process) -> list[Process]:
    """What descends from `process`, and what is left in its session if it has died."""
    pids: set[int] = set()
    if alive(process):
        with contextlib.suppress(psutil.Error):
            pids = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    elif _start_mark(process.pid) is None:
        # The kernel gives no pid away while a session of that number lives: these can only be its orphans.
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if pid != process.pid and os.getsid(pid) == process.pid:
                    pids.add(pid)
    return [member for member in map(identify, pids) if member is not None]


def send(process: Process, number: signal.Signals) -> None:
    if alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_until_gone(
    processes: Iterable[Process], seconds: float, impatient: Callable[[], bool] = lambda: False
) -> bool:
    """True as soon as none of them lives; False when `seconds` are over or the caller has become impatient."""
    deadline = time.monotonic() + seconds
    processes = list(processes)
    while any(alive(process) for process in processes):
        if time.monotonic() >= deadline or impatient():
            return False
        time.sleep(_POLL)
    return True


def end(
    process: Process,
    steps: Sequence[tuple[signal.Signals, float]],
    impatient: Callable[[], bool] = lambda: False,
) -> None:
    """Send each signal in turn, waiting its seconds, until the process is gone; SIGKILL is the last, always.

    Then what it leaves behind (a pool's children, a server's backends) gets a moment to notice, and the same end.
    """
    members = family(process)
    for number, seconds in steps:
        send(process, number)
        if wait_until_gone([process], 0.0 if impatient() else seconds, impatient):
            break
    send(process, signal.SIGKILL)
    wait_until_gone([process], _ORPHAN_GRACE)
    members = list({*members, *family(process)})
    if not wait_until_gone(members, 0.0 if impatient() else _ORPHAN_GRACE, impatient):
        for member in members:
            send(member, signal.SIGKILL)
        wait_until_gone(members, _ORPHAN_GRACE)


def record_path(directory: Path, name: str) -> Path:
    return directory / "run" / f"{name}.json"


def record(directory: Path, name: str, process: Process) -> None:
    """Remember that `name` is this process, for later commands and after a crash of ours."""
    write_atomically(record_path(directory, name), json.dumps({"pid": process.pid, "started": process.started}))


def recorded(directory: Path, name: str) -> Process | None:
    """The process last started under this name, alive or not."""
    path = record_path(directory, name)
    try:
        value = json.loads(path.read_text())
        return Process(int(value["pid"]), str(value["started"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddedServerError(f"{path} does not name a process ({error}). Remove it and try again.") from error


def running(directory: Path, name: str) -> Process | None:
    """The process last started under this name, if it lives."""
    process = recorded(directory, name)
    return process if process is not None and alive(process) else None


def forget(directory: Path, name: str) -> None:
    record_path(directory, name).unlink(missing_ok=True)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Write all of it or nothing: a reader, or the next start after a crash, never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def make_room(log: Path) -> int:
    """Put a log that has grown large aside; the size of what is left, where the next start begins to write."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= _LOG_LIMIT:
        return size
    log.replace(log.with_name(log.name + ".1"))
    return 0


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, for an error that has to say why."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
