"""The worker that P1 measures: Tenure's own, with one more job, which does nothing to each of its rows.

celery -A benchmarks.noop worker --concurrency 2        # the worker
python -m benchmarks.noop                               # its relay
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import cast
from uuid import UUID

from sqlalchemy.orm import Session

from models.work.request import JobRequest
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow, Job
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current
from workers.app import app
from workers.celery.routing import ROUTES

TASK = "benchmarks.noop"
QUEUE = "sweeps"

# Before Celery reads its configuration, which makes its routes of this table.
cast("MutableMapping[str, str]", ROUTES)[TASK] = QUEUE


def load(_session: Session, ids: Sequence[UUID]) -> dict[UUID, None]:
    return dict.fromkeys(ids)


def act(_item: None, _claimed: ClaimedRow) -> None:
    """Nothing: what is measured is the way to here and back."""


def record(_session: Session, _results: Mapping[UUID, None], _ports: Ports) -> None:
    """Nothing: `finish` has set the rows to done."""


NOOP: Job[None, None] = Job(
    task=TASK,
    table=JobRequest,
    load=load,
    act=act,
    record=record,
    batch=500,
    record_every=500,
    where=f"kind = '{TASK}'",
)


@app.task(name=TASK, base=Tick)
def noop() -> dict[str, int]:
    return drain(NOOP, current())


if __name__ == "__main__":
    from workers.celery import logs
    from workers.services import relay
    from workers.settings.settings import settings
    from workers.wiring import bootstrap

    logs.configure(json=False)
    relay.main(bootstrap.ports(settings(), app), [NOOP])
