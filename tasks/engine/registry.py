"""Every job that drains a table of work rows. `tick` in `tasks/engine/task.py` registers a job where it is defined.

The relay wakes these jobs, the operator's commands list them, and `tenure health` asks whether each makes progress.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import tasks
from tasks.engine.job import Job

_jobs: dict[str, Job[Any, Any]] = {}


def register(job: Job[Any, Any]) -> None:
    """Make `job` known. Raises ValueError if another job has the name of its task."""
    if _jobs.setdefault(job.task, job) is not job:
        raise ValueError(f"There are two jobs for the task {job.task}: rename one of them.")


def module_names() -> tuple[str, ...]:
    """Return the name of every module below `tasks`, sorted."""
    return tuple(sorted(each.name for each in pkgutil.walk_packages(tasks.__path__, f"{tasks.__name__}.")))


@cache
def import_every_module() -> None:
    """Import every module below `tasks`, so that whatever registers itself on import has done so."""
    for name in module_names():
        import_module(name)


def jobs() -> Sequence[Job[Any, Any]]:
    """Return every job, in the order of their tasks' names."""
    import_every_module()
    return [_jobs[task] for task in sorted(_jobs)]
