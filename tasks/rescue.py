"""Rescue: what dead processes held is due again (W4).

Every drain does this for its own table before it claims; this tick does it for all, so that a table whose only worker
died is not forgotten. Any worker may run it: it knows the dead of its own host, and every lease that ran out.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery import shared_task

from models.base.base import Base
from models.work.row import Work
from tasks import drain
from tasks.job import Tick
from tasks.ports import Ports, current


def work_tables() -> Iterable[type[Work]]:
    """Every table of work rows, by name."""
    tables = (mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, Work))
    return sorted(tables, key=lambda table: table.__tablename__)


def rescue_all(ports: Ports) -> int:
    return sum(drain.rescue(table, ports) for table in work_tables())


@shared_task(name="work.rescue", base=Tick)
def rescue_work() -> dict[str, int]:
    return {"rescued": rescue_all(current())}
