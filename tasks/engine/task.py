"""The base of every tick, and `tick`, which makes the Celery task of a job and registers the job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import structlog
from celery import Task, shared_task
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import is_outage, outage_reason
from tasks.engine import registry
from tasks.engine.drain import drain
from tasks.engine.job import Job
from tasks.failures import Bug, describe
from tasks.ports import context

log = structlog.get_logger()


class Tick(Task):  # type: ignore[type-arg]
    """A task that looks for what is due and returns small counts. It carries no arguments and no truth.

    Acknowledged before it runs: losing it costs no more than the time until the next tick. Arguments, which only a
    forged message has, are passed over (W21).
    """

    abstract = True
    ignore_result = True
    acks_late = False
    typing = False
    Request = "tasks.engine.quiet_request:QuietRequest"

    def __call__(self, /, *_args: Any, **_kwargs: Any) -> Any:
        with structlog.contextvars.bound_contextvars(task=self.name, message=self.request.id):
            current = context.current()
            current.wake.begun(self.name)
            try:
                counts = super().__call__()
            except Exception as error:
                if not (isinstance(error, DBAPIError) and is_outage(error)):
                    raise Bug(describe(error)) from None
                # Rows, not messages, hold the work: it waits in PostgreSQL for the tick that finds it back.
                log.warning("postgresql.unavailable", reason=outage_reason(error))
                return {"unavailable": 1}
            # A tick that found nothing to do is not worth a line.
            log.log(logging.INFO if any(counts.values()) else logging.DEBUG, "task.done", **counts)
            return counts


def tick(
    job: Job[Any, Any],
    *,
    only_if: Callable[[context.Ports], bool] = lambda _ports: True,
    first: Callable[[context.Ports], object] = lambda _ports: None,
    soft_time_limit: int | None = None,
    time_limit: int | None = None,
) -> Task[..., dict[str, int]]:
    """Make the Celery task that drains `job`, and register the job. Its queue stands in its row of the timetable.

    The task does nothing unless `only_if` holds, and calls `first` before it drains. Time limits are in seconds; None
    means those of the settings. Raises ValueError if another job has the name of its task.
    """
    registry.register(job)

    # None is Celery's own default, which its types leave out.
    @shared_task(name=job.task, base=Tick, soft_time_limit=soft_time_limit, time_limit=time_limit)  # type: ignore[arg-type]
    def drain_job() -> dict[str, int]:
        ports = context.current()
        if not only_if(ports):
            return {}
        first(ports)
        return drain(job, ports)

    return drain_job
