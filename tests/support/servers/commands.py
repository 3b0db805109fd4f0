"""Our programs for tests that start them often: each a process of its own, forked from one that is warm.

Importing libraries is nearly all of the second and more of processor time that a short command takes, and that a
worker, relay or Beat takes until it is ready. `command_process` has imported them once. A call of the `tenure` command
(`run`) and a process that stays (`start`) are forks of it, with the arguments, the environment, the working directory
and the file descriptors that they would have had as `python -m PROGRAM`. `test_commands.py` compares the two.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.time.deadlines import deadline
from workers.local import processes
from workers.local.stack import FAKE_CLOCK

EXECUTABLE = (sys.executable, "-m", "workers.commands")
_PROGRAM = "workers.commands"
_REPOSITORY = Path(__file__).parents[3]
#: What Python reads before a program's first line is that of the process that is forked.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "MALLOC_", "LD_")
#: Of these, what the fork of a process that stays does itself, or what says of UTF-8 that it is UTF-8.
_DONE_BY_THE_FORK = ("PYTHONPATH", "PYTHONUNBUFFERED", "LANG")
_LENGTH = struct.Struct("!I")


def executed(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command as an operator starts it."""
    return subprocess.run(
        [*EXECUTABLE, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=deadline(60),
        check=False,
    )


@dataclass
class Commands:
    """Calls of the command; threads may share it. `close` ends the process, and so does the end of the tests."""

    _end: socket.socket = field(init=False)
    _process: subprocess.Popen[bytes] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._end, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.servers.command_process", str(its_end.fileno())],
                env={name: os.environ[name] for name in ("PATH", "HOME", *FAKE_CLOCK) if name in os.environ},
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its_end.fileno()],
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._end.close()
        self._process.wait(deadline(60))

    def run(
        self, *arguments: str, environment: Mapping[str, str], stdin: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured text; TimeoutExpired, and the command is killed, after `seconds`."""
        _check(environment, ())
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
        ):
            given.write(stdin)
            given.seek(0)
            call = [_PROGRAM, arguments, dict(environment), str(Path.cwd()), False]
            status = self._status(call, [given.fileno(), output.fileno(), errors.fileno()], seconds)
            if status is None:
                raise subprocess.TimeoutExpired([*EXECUTABLE, *arguments], seconds)
            output.seek(0)
            errors.seek(0)
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess([*EXECUTABLE, *arguments], code, output.read(), errors.read())

    def start(
        self, program: str, arguments: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path
    ) -> processes.Process:
        """Start `python -m program` as `workers.local.processes.spawn` does, attached to these tests.

        It has a session of its own, writes to the end of `log`, and is killed with the process it is forked from.
        """
        _check(environment, _DONE_BY_THE_FORK)
        call = [program, list(arguments), dict(environment), str(directory), True]
        with (
            Path(os.devnull).open("rb") as nothing,
            log.open("ab") as output,
            self._asked(call, [nothing.fileno(), output.fileno(), output.fileno()]) as answer,
        ):
            answer.settimeout(60)
            pid = answer.recv(16)
        assert pid, "the process that others are forked from has died"
        # One that has ended already has no mark any more: then none will ever be equal to "".
        return processes.identify(int(pid)) or processes.Process(int(pid), "")

    def _asked(self, call: object, descriptors: list[int]) -> socket.socket:
        """Hand over a call; the socket on which it is answered."""
        answer, its_answer = socket.socketpair()
        with its_answer, self._lock:
            encoded = json.dumps(call).encode()
            socket.send_fds(self._end, [_LENGTH.pack(len(encoded))], [*descriptors, its_answer.fileno()])
            self._end.sendall(encoded)
        return answer

    def _status(self, call: object, descriptors: list[int], seconds: float) -> int | None:
        """What `waitpid` said of it; None after `seconds`, when it was killed."""
        with self._asked(call, descriptors) as answer:
            answer.settimeout(seconds)
            try:
                told = answer.recv(16)
            except TimeoutError:
                # Who waits for the command kills it when nobody wants its answer any more.
                answer.shutdown(socket.SHUT_WR)
                answer.settimeout(10)
                answer.recv(16)
                return None
        assert told, "the process that commands are forked from has died"
        return int(told)


def _check(environment: Mapping[str, str], allowed: Collection[str]) -> None:
    unlike = [name for name in environment if name.startswith(_READ_AT_START) and name not in allowed]
    assert not unlike, f"{unlike} mean something to Python before it begins: execute the program instead"


@dataclass(frozen=True)
class Call:
    """What to run as `python -m program arguments`.

    descriptors: its stdin, stdout and stderr, and where to answer.
    stays: it is not waited for, and gets a session of its own.
    """

    program: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    stays: bool
    descriptors: list[int]


def received(end: socket.socket) -> Call | None:
    """The next call at the other end; None at the end."""
    head, descriptors, _, _ = socket.recv_fds(end, _LENGTH.size, 4)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    encoded = b""
    while len(encoded) < length:
        part = end.recv(length - len(encoded))
        if not part:
            return None
        encoded += part
    return Call(*json.loads(encoded), descriptors)
