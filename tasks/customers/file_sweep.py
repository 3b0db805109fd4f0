"""Files that were discarded, and uploads that never ended, are removed by a tick; done twice, nothing is left to do."""

from __future__ import annotations

from celery import shared_task

from tasks.client import files
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current


def sweep(ports: Ports) -> int:
    """Go on until nothing is left, or this process is to stop; how many files went."""
    swept = 0
    while not ports.stopping():
        found = files.sweep(ports.database, ports.objects)
        swept += found
        if found < files.BATCH:
            break
    return swept


@shared_task(name="files.sweep", base=Tick)
def sweep_files() -> dict[str, int]:
    return {"swept": sweep(current())}
