"""P10: the memory of an idle worker with everything loaded, beside a bare Celery worker with SQLAlchemy and boto3.

Proportional sizes (PSS): what the main process and its two children share is counted once.
"""

from __future__ import annotations

import sys
from functools import partial
from time import sleep

from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.processes import proportional
from benchmarks.servers import Servers

MIB = 2**20
BARE = "a bare Celery worker with SQLAlchemy and boto3"
OURS = "Tenure's worker, every task loaded"
#: Seconds until a worker that is ready has settled.
SETTLE = 2.0
MOST = 1.3


def rows(servers: Servers, _size: int, runs: int) -> Row:
    contestants = {BARE: partial(idle, servers, "benchmarks.bare"), OURS: partial(idle, servers, "workers.app")}
    measured = interleaved(contestants, runs)
    row = Row(
        "P10",
        "memory of an idle worker, main process and 2 children",
        "MiB",
        Better.LOWER,
        measured[OURS],
        peers=[measured[BARE]],
    )
    ratio = 1 / row.ratio(measured[BARE])
    row.goals.append(Goal(f"≤ {MOST} × a bare worker", f"{ratio:.2f} ×", ratio <= MOST))
    return row


def idle(servers: Servers, app: str) -> Sample:
    servers.broker()
    with servers.database() as observer, servers.crew(observer.url) as crew:
        crew.start(
            "worker",
            [sys.executable, "-m", "celery", "-A", app, "worker", "--concurrency=2", "--loglevel=INFO"],
            until=" ready.",
        )
        crew.wait(lambda: len(crew.pids("worker")) == 3, "the worker has its two children")
        sleep(SETTLE)
        return Sample(sum(map(proportional, crew.pids("worker"))) / MIB, crew.peak_memory("worker"))
