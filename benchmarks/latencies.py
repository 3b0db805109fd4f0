"""How long others wait while a job works beside them: looks at the table before it and during it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from time import perf_counter

import psycopg

from benchmarks.servers import Observer

#: Looked at before and beside a job, at least: of fewer a p99 is one look.
LOOKS = 300


@dataclass
class Latencies:
    """In ms: with nothing else going on, and beside a job."""

    idle: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def times(self) -> float:
        """How many times as long the p99 is beside it."""
        return _p99(self.beside) / _p99(self.idle)

    def said(self) -> str:
        return f"{self.times():.1f} × ({_p99(self.idle):.2f} to {_p99(self.beside):.2f} ms, {len(self.beside):,} looks)"


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def beside(
    observer: Observer,
    looks: dict[str, Callable[[psycopg.Connection[object]], None]],
    job: Callable[[], object],
    *,
    idle: int = 5,
) -> dict[str, Latencies]:
    """Look again and again while nothing else goes on, `idle` rounds of it, and then until the job has ended."""
    latencies = {name: Latencies() for name in looks}
    over = Event()
    with psycopg.connect(observer.url, autocommit=True) as connection:

        def watch(working: bool) -> None:
            done = 0
            while done < LOOKS or (working and not over.is_set()):
                for name, look in looks.items():
                    begun = perf_counter()
                    look(connection)
                    took = (perf_counter() - begun) * 1000
                    (latencies[name].beside if working else latencies[name].idle).append(took)
                done += 1

        watch(False)
        for each in latencies.values():
            each.idle.clear()  # plans and caches are warm now
        for _ in range(idle):
            watch(False)
        watcher = Thread(target=watch, args=(True,))
        watcher.start()
        try:
            job()
        finally:
            over.set()
            watcher.join()
    return latencies
