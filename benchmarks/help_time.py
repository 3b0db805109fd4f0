"""P12: how long `tenure --help` takes, beside a Python that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import Better, Goal, Row, Sample, interleaved

LIMIT = "python -c pass"
OURS = "tenure --help"
CELERY = "celery --help"
MOST = 3.0


def rows(_servers: object, times: int, runs: int) -> Row:
    scripts = Path(sys.executable).parent
    commands = {
        LIMIT: (sys.executable, "-c", "pass"),
        OURS: (str(scripts / "tenure"), "--help"),
        CELERY: (str(scripts / "celery"), "--help"),
    }
    measured = interleaved({name: partial(duration, command, times) for name, command in commands.items()}, runs)
    row = Row(
        "P12",
        "time of `tenure --help`",
        "ms",
        Better.LOWER,
        measured[OURS],
        measured[LIMIT],
        [measured[CELERY]],
    )
    ratio = 1 / row.ratio(measured[LIMIT])
    row.goals.append(Goal(f"≤ {MOST:.0f} × python -c pass", f"{ratio:.2f} ×", ratio <= MOST))
    return row


def duration(command: Sequence[str], times: int) -> Sample:
    """The median of so many starts, in milliseconds."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    taken = []
    for _ in range(times):
        begun = perf_counter()
        told = subprocess.run(command, check=True, capture_output=True, env=environment, cwd="/", timeout=60)
        taken.append(perf_counter() - begun)
        assert told.stdout or command[-1] == "pass", f"{command[0]} said nothing"
    return Sample(median(taken) * 1_000)
