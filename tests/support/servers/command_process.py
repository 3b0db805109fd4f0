"""The process that `tests.support.servers.commands` forks: libraries are imported here, and nothing else is done.

Of ours it imports the tables alone, as `import models` does. The rest, with every import that a program makes when it
runs, is imported by the program itself as ever. It has one thread and no connection, and so has each fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import os
import runpy
import signal
import socket
import sys
import threading
import time

from tests.support.servers.commands import Call, received
from workers.local.stack import FAKE_CLOCK

#: What our programs import of others, and what takes long. One that is missing here costs its time at each start.
LIBRARIES = (
    "alembic.command",
    "alembic.config",
    "alembic.runtime.migration",
    "babel.dates",
    "babel.numbers",
    "billiard.pool",
    "boto3.s3.inject",
    "boto3.session",
    "botocore.client",
    "celery.app.amqp",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.canvas",
    "celery.concurrency.prefork",
    "celery.signals",
    "celery.worker.autoscale",
    "celery.worker.consumer.gossip",
    "celery.worker.worker",
    "click",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
    "email.contentmanager",
    "email_validator",
    "flower.command",
    "jinja2",
    "kombu.pidbox",
    "kombu.transport.redis",
    "msgspec",
    "prometheus_client",
    "psutil",
    "psycopg",
    "redis",
    "rich.console",
    "rich.live",
    "rich.table",
    "s3transfer.manager",
    "smtplib",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "starlette.applications",
    "structlog",
    "uvicorn",
)
OURS = ("models",)


#: prctl(2): the signal that a process gets when the one that started it ends.
_PR_SET_PDEATHSIG = 1


def main() -> str | None:
    """Serve calls. Returns in each fork the program that it is to run, and None at the end."""
    end = socket.socket(fileno=int(sys.argv[1]))
    for library in (*LIBRARIES, *OURS):
        importlib.import_module(library)
    # The collector would write into, and so copy, every page that forks share.
    gc.collect()
    gc.freeze()
    # Those who wait for commands are waited for by nobody, and Ctrl-C is for the tests and the commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while (call := received(end)) is not None:
        parent = os.getpid()
        if os.fork() == 0:
            end.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if call.stays:
                stay(call, parent)
            else:
                begin_and_wait(call)
            return call.program
        for descriptor in call.descriptors:
            os.close(descriptor)
    return None


def stay(call: Call, parent: int) -> None:
    """Become a process that nobody waits for, which ends with `parent` at the latest; answer with its pid."""
    os.setsid()
    if sys.platform == "linux":
        kernel = ctypes.CDLL(None, use_errno=True)
        if kernel.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")
        if os.getppid() != parent:
            os._exit(1)
    answer = call.descriptors[-1]
    become(call)
    with socket.socket(fileno=answer) as asker:
        asker.sendall(str(os.getpid()).encode())


def begin_and_wait(call: Call) -> None:
    """Fork the command, wait for it, tell how it ended; returns in the command's process alone."""
    *standard, answer = call.descriptors
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        become(call)
        return
    for descriptor in standard:
        os.close(descriptor)
    asker = socket.socket(fileno=answer)
    ending = threading.Lock()
    ended = False

    def kill_if_nobody_asks() -> None:
        asker.recv(1)
        with ending:
            if not ended:
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill_if_nobody_asks, daemon=True).start()
    # Until it is waited for in full, its pid is nobody else's.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with ending:
        ended = True
        _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        asker.sendall(str(status).encode())
    os._exit(0)


def become(call: Call) -> None:
    """Make of this process what `execve` would have made."""
    for number, descriptor in enumerate(call.descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python sets LC_CTYPE where there is no locale, and a command's children get it. libfaketime reads its own again.
    no_locale = call.environment.get("LANG", "C") in ("", "C", "POSIX")
    kept = (*(("LC_CTYPE",) if no_locale else ()), *FAKE_CLOCK)
    coerced = {name: os.environ[name] for name in kept if name in os.environ}
    os.environ.clear()
    os.environ.update(call.environment | coerced)
    time.tzset()
    os.chdir(call.directory)
    sys.path[:1] = [call.directory, *filter(None, call.environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["", *call.arguments]
    if call.environment.get("PYTHONUNBUFFERED"):
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)


if __name__ == "__main__" and (program := main()) is not None:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
