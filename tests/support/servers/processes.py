"""Tenure's own processes in a test: real, each in a session of its own, ended by pid whatever happens.

    with Processes(environment, tmp_path) as processes:
        worker = processes.worker()          # returns when it is ready
        worker.kill()                        # SIGKILL to all of it, at once
        worker.start()                       # the same again, on the same log

On Linux they end with the test's process too, even if that is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from tests.support.servers.commands import Commands
from tests.support.time.deadlines import deadline
from workers.local import processes
from workers.local.stack import FAKE_CLOCK

Value = TypeVar("Value")

#: Seconds until something that must happen has happened, on a slow, busy machine: twice the slowest tick.
PATIENCE = 120.0
POLL = 0.02

# What `python -m` runs.
_CELERY = ("celery", "-A", "workers.app")
_TENURE = ("workers.commands",)
#: What a process of ours needs of the tester's environment. No TENURE_*, which would be another stack's.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", *FAKE_CLOCK)
_REPOSITORY = Path(__file__).parents[3]


class TooLate(AssertionError):
    """A deadline passed."""


def eventually(condition: Callable[[], Value], what: object, *, seconds: float = PATIENCE) -> Value:
    """The first true value of `condition`, looked at again and again; AssertionError with its last value otherwise.

    `what` is put into words when it is too late, and not before.
    """
    ends = time.monotonic() + deadline(seconds)
    while not (value := condition()):
        if time.monotonic() > ends:
            raise TooLate(f"not within {deadline(seconds):.0f} s: {what} (last seen: {value!r})")
        time.sleep(POLL)
    return value


def throughout(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """That `condition` holds at every look for so long."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert condition(), what
        time.sleep(POLL)


def measured(text: str) -> None:
    """Show a measurement in the output of `pytest -rA`; it is never a reason to fail."""
    sys.stdout.write(f"measured: {text}\n")


@dataclass
class Running:
    """One of our processes with its children; `start` it again after its end."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    is_ready: Callable[[Running], bool]
    #: Forks it from a process that has its libraries; None executes it.
    commands: Commands | None = None
    process: processes.Process | None = None
    #: Where in the log this life of it begins.
    log_start: int = 0

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def start(self, *, wait: bool = True) -> None:
        assert self.process is None or not processes.alive(self.process), f"{self.name} runs already"
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        if self.commands is None:
            self.process = processes.spawn(
                [sys.executable, "-m", *self.command],
                log=self.log,
                environment=self.environment,
                directory=self.directory,
                attached=True,
            )
        else:
            program, *arguments = self.command
            self.process = self.commands.start(
                program, arguments, environment=self.environment, directory=self.directory, log=self.log
            )
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        def ready() -> bool:
            assert self.alive(), f"{self.name} ended before it was ready:\n{self.text()}"
            return self.is_ready(self)

        eventually(ready, f"{self.name} is ready:\n{self.text()}")

    def alive(self) -> bool:
        return self.process is not None and processes.alive(self.process)

    def text(self) -> str:
        """What it has written in this life."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace")

    def all_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def children(self) -> list[int]:
        """The pids of its pool's living processes."""
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
        return sorted(found)

    def signal_all(self, number: signal.Signals) -> None:
        """Every process of the group in one go: the main one cannot tell its children anything in between."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the whole group, as a machine that loses its power."""
        members = self._members()
        with contextlib.suppress(ProcessLookupError):
            self.signal_all(signal.SIGKILL)
        assert processes.wait_until_gone(members, deadline(10)), f"{self.name} survived SIGKILL"

    def kill_main(self) -> None:
        """SIGKILL to the main process alone: its children are orphans."""
        assert self.process is not None
        processes.send(self.process, signal.SIGKILL)
        assert processes.wait_until_gone([self.process], deadline(10))

    def terminate(self) -> None:
        """SIGTERM to the main process alone, as a service manager or container runtime does."""
        os.kill(self.pid, signal.SIGTERM)

    def await_end(self, seconds: float = PATIENCE) -> float:
        """Wait until the whole group is gone; returns the seconds that it took."""
        begun = time.monotonic()
        assert processes.wait_until_gone(self._members(), deadline(seconds)), f"{self.name} did not end in time"
        return time.monotonic() - begun

    def stop(self) -> None:
        """SIGSTOP: frozen, as a machine that is suspended."""
        self.signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal_all(signal.SIGCONT)

    def _members(self) -> list[processes.Process]:
        assert self.process is not None
        return [self.process, *processes.family(self.process)]


def _says(*words: str) -> Callable[[Running], bool]:
    return lambda running: all(word in running.text() for word in words)


def _answers(port: int) -> Callable[[Running], bool]:
    def answers(_: Running) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    return answers


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Processes:
    """The processes of one test, with the addresses of its servers; ends them all at its own end.

    With `commands`, they are forked from a process that has imported their libraries; without, they are executed as a
    service manager does, which takes a second and more of processor time each.
    """

    addresses: Mapping[str, str]
    directory: Path
    commands: Commands | None = None
    started: list[Running] = field(default_factory=list)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self.started:
            if running.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    running.signal_all(signal.SIGKILL)
                processes.end(running.process, ())

    def environment(self, **settings: object) -> dict[str, str]:
        """For any process of this test. `lease_seconds=2` sets TENURE_LEASE_SECONDS."""
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        chosen = {f"TENURE_{name.upper()}": str(value) for name, value in settings.items()}
        return passed_on | {"PYTHONPATH": str(_REPOSITORY), "PYTHONUNBUFFERED": "1"} | dict(self.addresses) | chosen

    def worker(
        self,
        name: str = "worker",
        *,
        concurrency: int = 2,
        arguments: Sequence[str] = (),
        wait: bool = True,
        **settings: object,
    ) -> Running:
        # Mingling is one second in which a worker waits for what others have to say.
        options = [
            "--loglevel=INFO",
            f"--concurrency={concurrency}",
            "-n",
            f"{name}@%h",
            "--without-mingle",
            *arguments,
        ]
        return self.run(name, [*_CELERY, "worker", *options], _says(" ready."), wait=wait, **settings)

    def beat(self, name: str = "beat", *, directory: Path | None = None, **settings: object) -> Running:
        command = [*_CELERY, "beat", "--loglevel=INFO"]
        return self.run(name, command, _says("beat: Starting"), directory=directory, **settings)

    def relay(self, name: str = "relay", **settings: object) -> Running:
        return self.run(name, [*_TENURE, "relay"], _says("relay.listening"), **settings)

    def flower(self, name: str = "flower", **settings: object) -> Running:
        port = int(self.environment(**settings)["TENURE_FLOWER_PORT"])
        return self.run(name, [*_CELERY, "flower"], _answers(port), **settings)

    def metrics(self, name: str = "metrics", **settings: object) -> Running:
        port = _free_port()
        return self.run(name, [*_TENURE, "metrics"], _says("metrics.listening"), metrics_port=port, **settings)

    def download_page(self, name: str = "download-page", **settings: object) -> Running:
        port = _free_port()
        return self.run(name, [*_TENURE, "download-page"], _answers(port), download_port=port, **settings)

    def run(
        self,
        name: str,
        command: Sequence[str],
        is_ready: Callable[[Running], bool],
        *,
        directory: Path | None = None,
        wait: bool = True,
        **settings: object,
    ) -> Running:
        running = Running(
            name,
            command,
            self.environment(**settings),
            directory or self.directory,
            self.directory / f"{name}.log",
            is_ready,
            self.commands,
        )
        self.started.append(running)
        running.start(wait=wait)
        return running

    def logs(self) -> Iterator[tuple[str, str]]:
        for running in self.started:
            yield running.name, running.all_text()
