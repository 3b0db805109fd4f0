"""Failpoints: named places where a test makes a process fail (W17). Off, each costs one comparison.

    TENURE_FAILPOINTS="statements.render:after_claim=kill"          # SIGKILL itself at that place
    TENURE_FAILPOINTS="emails.send:after_mark=kill#3"               # at the third time it gets there
    TENURE_FAILPOINTS_FIRED=/some/folder                            # each at most once over all processes that share it

They are armed by `workers/celery/lifecycle.py` and `tenure relay`; in production, settings refuse to start a process
that has them in its environment.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Final

VARIABLE: Final = "TENURE_FAILPOINTS"
FIRED: Final = "TENURE_FAILPOINTS_FIRED"
ACTIONS: Final = ("kill", "stop", "hang", "raise", "segfault")

#: Place, and what happens at which visit of it; empty where nothing is armed.
_armed: dict[str, tuple[str, int]] = {}
_visits: Counter[str] = Counter()
_fired: Path | None = None


def arm(environment: Mapping[str, str]) -> None:
    """Read what is to fail from the environment; nothing, where it says nothing."""
    global _fired  # noqa: PLW0603 - one process, one plan
    _armed.clear()
    _visits.clear()
    _fired = Path(environment[FIRED]) if environment.get(FIRED) else None
    for part in filter(None, environment.get(VARIABLE, "").split(",")):
        place, _, what = part.partition("=")
        action, _, visit = what.partition("#")
        if action not in ACTIONS or not place:
            raise ValueError(f"{VARIABLE} has {part!r}: write TASK:PLACE=ACTION, where ACTION is {', '.join(ACTIONS)}.")
        _armed[place] = (action, int(visit or 1))


def failpoint(job: str, place: str) -> None:
    """A place where a process may be made to fail: `job` is a task or a part, `place` a boundary of its work."""
    if _armed:
        _reach(f"{job}:{place}")


def _reach(place: str) -> None:
    planned = _armed.get(place)
    if planned is None:
        return
    action, visit = planned
    _visits[place] += 1
    if _visits[place] < visit or not _first(place):
        return
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            while True:
                sleep(1)
        case _:
            raise MemoryError(f"the failpoint {place} was armed")


def _first(place: str) -> bool:
    """Whether no process that shares our folder was here before."""
    if _fired is None:
        return True
    try:
        (_fired / place).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
