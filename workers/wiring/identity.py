"""Who a process is, so that another one on the same host can tell that it is dead (W4)."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil

#: Clocks and kernels round a process's start; two starts this close, in seconds, are the same.
SAME_START = 2.0


@cache
def host() -> str:
    """This host, or this container: pids mean something only within one pid namespace."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace}"


def identity(pid: int | None = None) -> str:
    """`host|pid|start`, start in seconds since the epoch."""
    process = psutil.Process(pid or os.getpid())
    return f"{host()}|{process.pid}|{process.create_time():.0f}"


def dead(holders: Sequence[str]) -> list[str]:
    """Of the processes on this host, those that are no more: no such pid, a later process under it, or a zombie."""
    return [holder for holder in holders if not _lives(holder)]


def _lives(holder: str) -> bool:
    where, pid, start = holder.rsplit("|", 2)
    if where != host():
        return True
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(start)) <= SAME_START and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
