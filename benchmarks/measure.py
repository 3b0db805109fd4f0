"""What a measurement is: values of several runs, beside those of the limit and of the peers from the same runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any


class Better(StrEnum):
    """Which way a unit counts: a rate is better higher, a time or a size lower."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass
class Sample:
    """One run of one contestant. Memory is the peak of all processes that did the work, in bytes."""

    value: float
    memory: int | None = None
    #: Bytes of write-ahead log, where PostgreSQL did the work.
    wal: int | None = None
    #: Seconds of processor time, of the processes that did the work and of the servers: steadier than the clock where
    #: others use the machine.
    cpu: float | None = None
    #: Of latencies, whose median is `value`.
    p99: float | None = None


@dataclass
class Measured:
    """The runs of one contestant."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(sample.value for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest of the runs."""
        values = [sample.value for sample in self.samples]
        return min(values), max(values)

    @property
    def memory(self) -> int | None:
        return max((sample.memory for sample in self.samples if sample.memory is not None), default=None)

    @property
    def wal(self) -> int | None:
        written = [sample.wal for sample in self.samples if sample.wal is not None]
        return round(median(written)) if written else None

    @property
    def cpu(self) -> float | None:
        used = [sample.cpu for sample in self.samples if sample.cpu is not None]
        return median(used) if used else None


@dataclass
class Goal:
    """What was promised and what came out, in words, and whether it was kept."""

    promise: str
    outcome: str
    met: bool


@dataclass
class Row:
    """One line of the table: what was done, by whom how fast, and what that says."""

    name: str
    what: str
    unit: str
    better: Better
    ours: Measured
    limit: Measured | None = None
    peers: list[Measured] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    #: What a reader must know to read the numbers, such as a peer that is not installed.
    notes: list[str] = field(default_factory=list)

    def ratio(self, other: Measured) -> float:
        """How many times better ours is than `other`; below 1 where it is worse. Each run is compared with its own."""
        pairs = zip(self.ours.samples, other.samples, strict=False)
        ratios = [ours.value / theirs.value for ours, theirs in pairs]
        return median(ratios) if self.better is Better.HIGHER else 1 / median(ratios)

    def as_json(self) -> dict[str, Any]:
        def contestant(measured: Measured) -> dict[str, Any]:
            return {
                "name": measured.name,
                "median": measured.median,
                "spread": measured.spread,
                "peak_memory_bytes": measured.memory,
                "wal_bytes": measured.wal,
                "cpu_seconds": measured.cpu,
                "runs": [asdict(sample) for sample in measured.samples],
            }

        others = [other for other in (self.limit, *self.peers) if other is not None]
        return {
            "row": self.name,
            "what": self.what,
            "unit": self.unit,
            "better": str(self.better),
            "limit": contestant(self.limit) if self.limit else None,
            "ours": contestant(self.ours),
            "peers": [contestant(peer) for peer in self.peers],
            "ours_is_times_better_than": {other.name: self.ratio(other) for other in others},
            "goals": [asdict(goal) for goal in self.goals],
            "notes": self.notes,
        }


def interleaved(contestants: Mapping[str, Callable[[], Sample]], runs: int) -> dict[str, Measured]:
    """Run all once, then all again, so that what else the machine does strikes them alike."""
    measured = {key: Measured(key) for key in contestants}
    for number in range(runs):
        order = list(contestants.items())
        # Turned round every other time: none always comes after the same neighbour.
        for key, contestant in order if number % 2 == 0 else reversed(order):
            measured[key].samples.append(contestant())
    return measured
