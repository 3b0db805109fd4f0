"""Beat: the clock that says "look now".

Celery's own Beat with three differences. It keeps no file: a Beat that was away has nothing to catch up with, because
PostgreSQL knows what is due; so it runs on a read-only disk, and any number may run. It counts seconds and reads no
clock, so that a clock which is set, forwards or back, makes no tick late (W11). And a tick is published by the waker,
so that ticks do not pile up in the broker while no worker takes them.
"""

from __future__ import annotations

from functools import cached_property
from time import monotonic
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from scheduler.timetable import TIMETABLE
from workers.celery.waker import RedisWaker

#: A key in Redis that lives as long as a Beat has ticked lately; `tenure health beat` looks for it.
TICKED = "tenure:ticked"
#: Seconds that it lives.
TICKED_FOR = 60


class Ticks(Scheduler):
    #: When each entry is next due, on the clock of `monotonic`. An entry that is not in it is due now: all are, when
    #: Beat starts, so that what a gap left undone is looked at when the gap ends.
    due: dict[str, float]

    @cached_property
    def waker(self) -> RedisWaker:
        return RedisWaker(self.app)

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self.merge_inplace(self.app.conf.beat_schedule)
        self.due = {}

    def tick(self, *_args: Any, **_kwargs: Any) -> float:
        """Publish what is due; returns the seconds until the next look."""
        for entry in TIMETABLE:
            now = monotonic()
            if now >= self.due.get(entry.task, now):
                self.due[entry.task] = now + entry.every.total_seconds()
                self.apply_entry(self.schedule[entry.task])
        return max(0.0, min(float(self.max_interval or 1), min(self.due.values()) - monotonic()))

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **_options: Any) -> None:
        self.waker(str(entry.task))
        self.waker.note(TICKED, TICKED_FOR)
