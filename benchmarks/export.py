"""P8: the record of an account's data, compressed, hashed, encrypted and in S3; and how its time grows (P11)."""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from statistics import median

from benchmarks import exporting
from benchmarks.measure import Better, Goal, Measured, Row, Sample, interleaved
from benchmarks.servers import Observer, Servers

MIB = 2**20
LIMIT = "psycopg: COPY to nowhere"
OURS = "Tenure: COPY, ZIP, SHA-256, age, S3"
ORM = "SQLAlchemy yield_per, csv, zlib-6, S3"
#: The part of the rows that the ORM gets: a rate needs seconds, not minutes.
ORM_PART = 10
MOST_TIME, MOST_MEMORY, LEAST_OVER_ORM = 1.3, 150 * MIB, 10


def rows(servers: Servers, size: int, runs: int) -> Row:
    """P8."""
    with servers.database() as observer:
        exporting.setup(observer.connection, size)
        part = max(1, size // ORM_PART)
        measured = interleaved(
            {
                LIMIT: partial(once, servers, observer, "copy", size),
                OURS: partial(once, servers, observer, "ours", size),
                ORM: partial(once, servers, observer, "orm", part),
            },
            runs,
        )
    row = Row(
        "P8",
        f"export {size:,} rows of an account",
        "rows/s",
        Better.HIGHER,
        measured[OURS],
        measured[LIMIT],
        [measured[ORM]],
        notes=[f"the ORM did {part:,} rows; its CPU and memory are of those"],
    )
    times, memory, faster = 1 / row.ratio(measured[LIMIT]), row.ours.memory or 0, row.ratio(measured[ORM])
    row.goals = [
        Goal(f"≤ {MOST_TIME} × the time of COPY to nowhere", f"{times:.2f} ×", times <= MOST_TIME),
        Goal(f"peak memory ≤ {MOST_MEMORY // MIB} MiB", f"{memory / MIB:.0f} MiB", memory <= MOST_MEMORY),
        Goal(f"≥ {LEAST_OVER_ORM} × the ORM way", f"{faster:.1f} ×", faster >= LEAST_OVER_ORM),
    ]
    return row


def growth(servers: Servers, size: int, runs: int) -> Row:
    """P11 for P8: a hundredth and a tenth of the rows, and how time and memory grow from each to the next."""
    sizes = [max(1, size // 100), max(1, size // 10), size]
    taken: list[list[Sample]] = []
    for each in sizes:
        with servers.database() as observer:
            exporting.setup(observer.connection, each)
            taken.append([once(servers, observer, "ours", each) for _ in range(runs)])
    seconds = [median(each / sample.value for sample in samples) for each, samples in zip(sizes, taken, strict=True)]
    steps = [more / fewer for fewer, more in pairwise(seconds)]
    peaks = [max(sample.memory or 0 for sample in samples) / MIB for samples in taken]
    last = [Sample(steps[-1], sample.memory, cpu=sample.cpu) for sample in taken[-1]]
    return Row(
        "P11-P8",
        f"times as long for 10 × the rows of P8, {sizes[1]:,} to {sizes[2]:,}",
        "×",
        Better.LOWER,
        Measured(OURS, last),
        goals=[
            Goal("10 × the rows in ≤ 11 × the time", ", ".join(f"{step:.1f} ×" for step in steps), max(steps) <= 11),
            Goal(
                "the same memory at 10 × the rows, within 20 %",
                ", ".join(f"{peak:.0f} MiB" for peak in peaks),
                peaks[2] <= 1.2 * peaks[1],
            ),
        ],
    )


def once(servers: Servers, observer: Observer, contestant: str, size: int) -> Sample:
    before = servers.cpu()
    with servers.crew(observer.url) as crew:
        crew.start(contestant, [sys.executable, "-m", "benchmarks.exporting", contestant, str(size)])
        crew.await_end(contestant)
        seconds, done, memory, cpu = next(
            line.split()[1:] for line in crew.log(contestant).splitlines() if line.startswith("done ")
        )
    assert int(done) == size, f"{contestant} did {done} of {size} rows"
    return Sample(size / float(seconds), int(memory), cpu=servers.cpu() - before + float(cpu))
