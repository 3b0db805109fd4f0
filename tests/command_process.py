"""The process that `tests.commands` forks: libraries are imported here, and nothing else is done.

Of ours it imports the tables alone, as `import models` does. The rest, with every import that a command makes when it
runs, is imported by the command itself as ever. It has one thread and no connection, and so has each fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import signal
import socket
import sys
import threading
import time

from tests.commands import received

#: What commands import of others, and what takes long. One that is missing here costs its time in each call.
LIBRARIES = (
    "alembic.command",
    "alembic.runtime.migration",
    "boto3.session",
    "botocore.client",
    "celery.app.amqp",
    "celery.signals",
    "celery.worker.worker",
    "click",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "cryptography.hazmat.primitives.serialization",
    "jinja2",
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
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "structlog",
)
OURS = ("models",)


def main() -> bool:
    """Serve calls. Returns in each fork, when it is the command's process; and at the end, false."""
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
        *command, descriptors = call
        if os.fork() == 0:
            end.close()
            return begun_by_a_waiter(*command, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    return False


def begun_by_a_waiter(
    arguments: list[str], environment: dict[str, str], directory: str, descriptors: list[int]
) -> bool:
    """Fork the command, wait for it, tell how it ended; returns in the command's process alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, answer = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        become(arguments, environment, directory, standard)
        return True
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


def become(arguments: list[str], environment: dict[str, str], directory: str, standard: list[int]) -> None:
    """Make of this process what `execve` would have made."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python sets it where there is no locale, and a command's children get it.
    coerced = {"LC_CTYPE": os.environ["LC_CTYPE"]} if "LC_CTYPE" in os.environ else {}
    os.environ.clear()
    os.environ.update(environment | coerced)
    time.tzset()
    os.chdir(directory)
    sys.path[0] = directory
    sys.argv = ["", *arguments]


if __name__ == "__main__" and main():
    runpy.run_module("workers.commands", run_name="__main__", alter_sys=True)
