"""Beat: the clock that says "look now".

Celery's own scheduler with two differences. It keeps no file: a Beat that was away has nothing to catch up with,
because PostgreSQL knows what is due; so it runs on a read-only disk, and any number may run. And a tick is published by
the waker, so that ticks do not pile up in the broker while no worker takes them.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from workers.waker import RedisWaker

#: A key in Redis that lives as long as a Beat has ticked lately; `tenure health beat` looks for it.
TICKED = "tenure:ticked"
#: Seconds that it lives.
TICKED_FOR = 60


class Ticks(Scheduler):
    @cached_property
    def waker(self) -> RedisWaker:
        return RedisWaker(self.app)

    def setup_schedule(self) -> None:
        """Every entry is due at once: what a gap left undone is looked at when the gap ends."""
        super().setup_schedule()
        self.merge_inplace(self.app.conf.beat_schedule)
        for entry in self.schedule.values():
            entry.last_run_at = self.app.now() - timedelta(days=1)

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **_options: Any) -> None:
        if advance:
            self.reserve(entry)
        self.waker(str(entry.task))
        self.waker.note(TICKED, TICKED_FOR)
