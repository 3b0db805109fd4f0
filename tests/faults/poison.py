"""A worker with one more job, whose rows kill their process in each of the ways there are (W2).

celery -A tests.faults.poison worker -Q sweeps
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, MutableMapping, Sequence
from time import sleep
from typing import cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.work.request import JobRequest
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow, Job
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current
from workers.app import app
from workers.celery.routing import ROUTES

TASK = "tests.poison"
QUEUE = "sweeps"

# Before Celery reads its configuration, which makes its routes of this table.
cast("MutableMapping[str, str]", ROUTES)[TASK] = QUEUE
# Few attempts: each ends a process, and the waits between them double.
JobRequest.max_attempts = 3


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = session.execute(select(JobRequest.id, JobRequest.args).where(JobRequest.id.in_(ids)))
    return {row.id: row.args["how"] for row in rows}


def act(how: str, _claimed: ClaimedRow) -> None:
    match how:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "memory":
            raise MemoryError
        case "loop":
            while True:
                pass
        case "hang":
            # Even what the soft time limit raises does not end it.
            while True:
                try:
                    sleep(60)
                except Exception:  # noqa: S112
                    continue


def record(_session: Session, _results: Mapping[UUID, None], _ports: Ports) -> None:
    """`finish` has set the rows to done."""


POISON: Job[str, None] = Job(TASK, JobRequest, load, act, record, batch=50, record_every=50, where="kind = 'poison'")


@app.task(name=TASK, base=Tick)
def poison() -> dict[str, int]:
    return drain(POISON, current())
