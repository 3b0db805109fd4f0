"""Rescue: what dead processes held is due again (W4).

Every drain does this for its own table before it claims; this tick does it for all, so that a table whose only worker
died is not forgotten. Any worker may run it: it knows the dead of its own host, and every lease that ran out.
"""

from __future__ import annotations

from celery import shared_task

from models.work.row import work_tables
from tasks.engine import lease
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current


def rescue_all(ports: Ports) -> int:
    return sum(lease.rescue(table, ports) for table in work_tables())


@shared_task(name="work.rescue", base=Tick)
def rescue_work() -> dict[str, int]:
    return {"rescued": rescue_all(current())}
