"""Identify a process, so that another process on the same machine can tell that it is dead (W4).

No clock takes part: a machine is known by the id of its current boot, and a process by its start in ticks since that
boot. Setting a clock changes neither. What cannot be told for certain counts as alive; its lease decides.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil

PROC = Path("/proc")
#: Fields of `/proc/PID/stat` (proc(5)), counted after the command, which may contain spaces and parentheses.
STATE, START = 0, 19


@cache
def host() -> str:
    """Return `name/boot/namespace`: this machine since it was started, and the namespace in which pids have a meaning.

    Two machines with one host name differ in their boot ids, two containers of one machine in their namespaces. Without
    `/proc`, as on macOS, it is the host's name alone.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (PROC / "self/ns/pid").readlink().name
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{namespace}"


def identity(pid: int | None = None) -> str:
    """Return `host|pid|start`, see `started`. Raises psutil.NoSuchProcess if no process has this pid."""
    pid = pid or os.getpid()
    start = started(pid)
    if start is None:
        raise psutil.NoSuchProcess(pid)
    return f"{host()}|{pid}|{start}"


def started(pid: int) -> str | None:
    """Return when a process was started, in ticks since boot; None if no process has this pid, or only a zombie.

    Without `/proc` it is the time at which the kernel recorded its start, in seconds since the epoch. Raises
    PermissionError if another user's process has this pid and `/proc` hides it (`hidepid`).
    """
    if not (PROC / "self/stat").exists():
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.6f}"
        except psutil.NoSuchProcess:
            return None
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        raise PermissionError(f"The process {pid} is hidden from this user.") from None
    return None if fields[STATE] in {"Z", "X"} else fields[START]


def dead(holders: Sequence[str]) -> list[str]:
    """Return the `holders` of this machine and namespace that are no more: no such pid, another start, or a zombie."""
    return [holder for holder in holders if not _lives(holder)]


def _lives(holder: str) -> bool:
    where, pid, start = holder.rsplit("|", 2)
    if where != host():
        return True
    try:
        return started(int(pid)) == start
    except PermissionError:
        return True
