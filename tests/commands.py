"""The `tenure` command for tests that run it often: each call a process of its own, forked from one that is warm.

Of the second and more that a short command takes, importing libraries is nearly all. `command_process` has imported
them once; a call is a fork of it, with the arguments, the environment, the working directory and the file descriptors
that it would have had as `python -m workers.commands`. `test_commands.py` compares the two.
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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

EXECUTABLE = (sys.executable, "-m", "workers.commands")
_REPOSITORY = Path(__file__).parents[1]
#: What Python reads before a program's first line is that of the process that is forked.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "MALLOC_", "LD_")
_LENGTH = struct.Struct("!I")


def executed(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command as an operator starts it."""
    return subprocess.run(
        [*EXECUTABLE, *arguments], env=dict(environment), capture_output=True, text=True, timeout=60, check=False
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
                [sys.executable, "-m", "tests.command_process", str(its_end.fileno())],
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
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
        self._process.wait(60)

    def run(
        self, *arguments: str, environment: Mapping[str, str], stdin: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured text; TimeoutExpired, and the command is killed, after `seconds`."""
        unlike = [name for name in environment if name.startswith(_READ_AT_START)]
        assert not unlike, f"{unlike} mean something to Python before it begins: use `executed`"
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
        ):
            given.write(stdin)
            given.seek(0)
            call = [arguments, dict(environment), str(Path.cwd())]
            status = self._status(call, [given.fileno(), output.fileno(), errors.fileno()], seconds)
            if status is None:
                raise subprocess.TimeoutExpired([*EXECUTABLE, *arguments], seconds)
            output.seek(0)
            errors.seek(0)
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess([*EXECUTABLE, *arguments], code, output.read(), errors.read())

    def _status(self, call: object, descriptors: list[int], seconds: float) -> int | None:
        """What `waitpid` said of it; None after `seconds`, when it was killed."""
        answer, its_answer = socket.socketpair()
        with answer:
            with its_answer, self._lock:
                encoded = json.dumps(call).encode()
                socket.send_fds(self._end, [_LENGTH.pack(len(encoded))], [*descriptors, its_answer.fileno()])
                self._end.sendall(encoded)
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


def received(end: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]] | None:
    """The next call at the other end, with stdin, stdout, stderr and the answer's descriptor; None at the end."""
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
    arguments, environment, directory = json.loads(encoded)
    return arguments, environment, directory, descriptors
