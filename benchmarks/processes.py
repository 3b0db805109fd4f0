"""The processes that a benchmark starts: each is ended by its pid, whatever happens, and says what memory it took.

with Crew(environment, directory) as crew:
    crew.start("worker", [...], until=" ready.")
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from workers.local import processes
from workers.local.processes import Process

#: Seconds until something that must happen has happened.
PATIENCE = 600.0
POLL = 0.01
ROOT = Path(__file__).resolve().parents[1]


class Unfinished(Exception):
    """A deadline passed, or a process ended that should have gone on; the text says which."""


class Crew:
    """Processes that work together in one run."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = passed_on | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(environment)
        self.directory = directory
        self._running: dict[str, Process] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.end(name)

    def start(self, name: str, command: Sequence[str], *, until: str | None = None) -> Process:
        """Start `command`; return when its log says `until`."""
        log = self._log(name)
        log.unlink(missing_ok=True)
        process = processes.spawn(
            command, log=log, environment=self.environment, directory=self.directory, attached=True
        )
        self._running[name] = process
        if until is not None:
            self.wait(lambda: until in self.log(name), f"{name} says {until!r}")
        return process

    def wait(self, condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE, poll: float = POLL) -> None:
        """Wait until `condition` holds. Raises `Unfinished`, also when a process of the crew has died."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._running.items():
                if not processes.alive(process) and not condition():
                    raise Unfinished(f"{name} ended before this was so: {what}. Its log:\n{self.log(name)[-3000:]}")
            if time.monotonic() > deadline:
                raise Unfinished(f"not within {seconds:.0f} s: {what}")
            time.sleep(poll)

    def log(self, name: str) -> str:
        log = self._log(name)
        return log.read_text(errors="replace") if log.exists() else ""

    def peak_memory(self, *names: str) -> int:
        """The sum of the highest resident sizes that the named processes and their children have had, in bytes."""
        return sum(peak(pid) for name in names for pid in self.pids(name))

    def cpu(self, *names: str) -> float:
        """The seconds of processor time that the named processes and their children have used."""
        return sum(cpu(self._running[name].pid) for name in names)

    def pids(self, name: str) -> list[int]:
        """A process and its children. One that only passes the work on (a launcher) has been replaced by then."""
        process = psutil.Process(self._running[name].pid)
        return [process.pid, *(child.pid for child in process.children(recursive=True))]

    def end(self, name: str) -> None:
        processes.end(self._running.pop(name), ((signal.SIGTERM, 5.0),))

    def await_end(self, name: str) -> None:
        """Wait until a process that ends by itself has done so, with success."""
        process = self._running.pop(name)
        if (code := processes.exit_code(process, PATIENCE)) != 0:
            raise Unfinished(f"{name} ended with {code}. Its log:\n{self.log(name)[-3000:]}")

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


def peak(pid: int) -> int:
    """The highest resident size that a living process has had, in bytes; its present one where no one counts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return int(psutil.Process(pid).memory_info().rss)


def cpu(pid: int) -> float:
    """Seconds of processor time of a process and of its children, those that have ended and those that live."""
    process = psutil.Process(pid)
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(member.cpu_times()[:4])
    return total


def proportional(pid: int) -> int:
    """The proportional size of a process, in bytes: pages that n processes share count 1/n for each."""
    full = psutil.Process(pid).memory_full_info()
    return int(getattr(full, "pss", None) or full.rss)
