"""P9: the purge of one account's rows beside another account's, and how its time and memory grow (P11)."""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from statistics import median

import psycopg

from benchmarks import purging
from benchmarks.latencies import Latencies, beside
from benchmarks.measure import Better, Goal, Measured, Row, Sample, interleaved
from benchmarks.servers import Observer, Servers

MIB = 2**20
LIMIT = f"psycopg: keyset batches of {purging.BATCH:,}"
OURS = "Tenure: the step, with checks, holds and evidence"
ONCE = "one DELETE a table"
ORM = "SQLAlchemy's cascade"
#: The part of the rows that the ORM gets: a rate needs seconds, not minutes.
ORM_PART = 20
LEAST, MOST_P99 = 0.9, 2.0


def rows(servers: Servers, size: int, runs: int) -> Row:
    """P9."""
    with servers.filled(partial(purging.setup, rows=size)) as filled:
        measured = interleaved(
            {
                LIMIT: partial(once, servers, filled, "keyset", size),
                OURS: partial(once, servers, filled, "ours", size),
                ONCE: partial(once, servers, filled, "once", size),
                ORM: partial(once, servers, filled, "orm", size, max(1, size // ORM_PART)),
            },
            runs,
        )
        latencies = _beside(servers, filled, size)
    row = Row(
        "P9",
        f"purge {size:,} rows of an account, events and their children",
        "rows/s",
        Better.HIGHER,
        measured[OURS],
        measured[LIMIT],
        [measured[ONCE], measured[ORM]],
        notes=[f"the ORM did about {max(1, size // ORM_PART):,} rows; its CPU and memory are of those"],
    )
    ratio = row.ratio(measured[LIMIT])
    row.goals = [
        Goal(f"≥ {LEAST:.0%} of keyset batches", f"{ratio:.0%}", ratio >= LEAST),
        *(
            Goal(f"p99 of others' {what} within {MOST_P99:g} × of idle", each.said(), each.times() <= MOST_P99)
            for what, each in latencies.items()
        ),
    ]
    return row


def growth(servers: Servers, size: int, runs: int) -> Row:
    """P11 for P9: a hundredth and a tenth of the rows, and how time and memory grow from each to the next."""
    sizes = [max(6, size // 100), max(6, size // 10), size]
    taken: list[list[Sample]] = []
    for each in sizes:
        with servers.filled(partial(purging.setup, rows=each)) as filled:
            taken.append([once(servers, filled, "ours", each) for _ in range(runs)])
    seconds = [median(each / sample.value for sample in samples) for each, samples in zip(sizes, taken, strict=True)]
    steps = [more / fewer for fewer, more in pairwise(seconds)]
    peaks = [max(sample.memory or 0 for sample in samples) / MIB for samples in taken]
    return Row(
        "P11-P9",
        f"times as long for 10 × the rows of P9, {sizes[1]:,} to {sizes[2]:,}",
        "×",
        Better.LOWER,
        Measured(OURS, [Sample(steps[-1], sample.memory, cpu=sample.cpu) for sample in taken[-1]]),
        goals=[
            Goal("10 × the rows in ≤ 11 × the time", ", ".join(f"{step:.1f} ×" for step in steps), max(steps) <= 11),
            Goal(
                "the same memory at 10 × the rows, within 20 %",
                ", ".join(f"{peak:.0f} MiB" for peak in peaks),
                peaks[2] <= 1.2 * peaks[1],
            ),
        ],
    )


def once(servers: Servers, filled: str, contestant: str, size: int, part: int | None = None) -> Sample:
    with servers.database(copied=filled) as observer:
        before, used = observer.wal(), servers.cpu()
        seconds, done, memory, cpu = _run(servers, observer, contestant, part or size)
        if part is None:
            assert done == size, f"{contestant} did {done} of {size} rows"
            left = "SELECT count(*) FROM shop.{} WHERE account_id = %s"
            assert [observer.value(left.format(name), purging.ACCOUNT) for name in ("events", "notes")] == [0, 0]
        others = "SELECT count(*) FROM shop.events WHERE account_id = %s"
        assert observer.value(others, purging.OTHER) == purging.parts(size)[0]
        return Sample(done / seconds, memory, observer.wal() - before, servers.cpu() - used + cpu)


def _run(servers: Servers, observer: Observer, contestant: str, size: int) -> tuple[float, int, int, float]:
    with servers.crew(observer.url) as crew:
        crew.start(contestant, [sys.executable, "-m", "benchmarks.purging", contestant, str(size)])
        crew.await_end(contestant)
        said = next(line.split()[1:] for line in crew.log(contestant).splitlines() if line.startswith("done "))
    return float(said[0]), int(said[1]), int(said[2]), float(said[3])


def _beside(servers: Servers, filled: str, size: int) -> dict[str, Latencies]:
    with servers.database(copied=filled) as observer:
        some = [row[0] for row in observer.connection.execute(
            "SELECT id FROM shop.events WHERE account_id = %s ORDER BY id LIMIT 10000", (purging.OTHER,)
        ).fetchall()]  # fmt: skip
        known = iter(some * 10_000)

        def look_up(connection: psycopg.Connection[object]) -> None:
            connection.execute("SELECT properties FROM shop.events WHERE id = %s", (next(known),))

        def insert(connection: psycopg.Connection[object]) -> None:
            connection.execute(
                "INSERT INTO shop.events VALUES (uuidv7(), %s, now(), 'x', NULL, NULL, '{}')", (purging.OTHER,)
            )

        return beside(observer, {"look-ups": look_up, "inserts": insert}, lambda: _run(servers, observer, "ours", size))
