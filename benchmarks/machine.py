"""The machine that the numbers come from: what a reader needs to judge them, and nothing that names it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import psutil

from benchmarks.servers import Servers

LIBRARIES = ("celery", "kombu", "sqlalchemy", "psycopg", "redis", "click", "huey", "pgqueuer", "procrastinate")


def machine(servers: Servers) -> dict[str, str]:
    """In the order in which they are shown."""
    with servers.database(migrated=False) as observer:
        postgresql = str(observer.value("SHOW server_version"))
        fsync = str(observer.value("SHOW fsync"))
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "PostgreSQL": f"{postgresql}, fsync {fsync}",
        "Valkey": str(servers.broker().info("server").get("valkey_version", "unknown")),
    }
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
