"""The base of every task: what each of them gets, and none repeats."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import is_outage, outage_reason
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
