"""Which task goes to which queue (W8): ticks as the timetable says, requests to `INBOUND`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.timetable import TIMETABLE
from tasks.client.requests import KINDS

#: Where plain Celery clients publish without being told a queue: requests from outside.
INBOUND = "celery"

#: In the order in which a free worker looks at them.
QUEUES: Sequence[str] = ("urgent", INBOUND, "lifecycle", "payments", "mail", "documents", "sweeps")

ROUTES: Mapping[str, str] = {entry.task: entry.queue for entry in TIMETABLE} | dict.fromkeys(KINDS, INBOUND)
