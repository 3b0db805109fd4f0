"""P13: what the notification of the relay costs the web tier's transactions, and how soon their requests begin.

Sixteen writers insert a request a transaction while relay and worker do the work, first as fast as they can, which is
counted, then with a pause between two, which leaves processors free, and of which the waits are taken. The limit is the
same without the trigger that notifies. What a request waits is its `finished_at` less its `created_at`, by the
database's clock, so it holds COMMIT, the relay, the broker, the claim and the effect.
"""

from __future__ import annotations

import sys
from functools import partial
from statistics import median

from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.processes import Crew
from benchmarks.servers import Observer, Servers

WRITERS = 16
#: Seconds between two transactions of a writer in the second part: some 300 requests a second in all.
PAUSE = 0.05
LIMIT = "the same without the trigger that notifies"
OURS = "Tenure: the trigger notifies, the relay polls"
#: Of those that end in the middle of the run: the first find the processes cold.
WAITS = """
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - created_at))
      FROM tenure.job_requests
     WHERE created_at > (SELECT min(created_at) + interval '1 second' FROM tenure.job_requests)"""


def rows(servers: Servers, seconds: int, runs: int) -> Row:
    contestants = {
        LIMIT: partial(commits, servers, seconds, notifies=False),
        OURS: partial(commits, servers, seconds, notifies=True),
    }
    measured = interleaved(contestants, runs)
    row = Row(
        "P13",
        f"insert requests from {WRITERS} writers, a transaction each, for {seconds} s",
        "commits/s",
        Better.HIGHER,
        measured.pop(OURS),
        measured.pop(LIMIT),
    )
    assert row.limit is not None
    kept = row.ratio(row.limit)
    waits = [sample.p99 for sample in row.ours.samples if sample.p99 is not None]
    p99 = median(waits)
    row.goals = [
        Goal("≥ 90 % of the commits without a notification", f"{kept:.0%}", kept >= 0.9),
        Goal("p99 of request to its effect < 200 ms", f"{p99:.0f} ms", p99 < 200),
    ]
    return row


def commits(servers: Servers, seconds: int, *, notifies: bool) -> Sample:
    servers.broker()
    with servers.database() as observer, servers.crew(observer.url) as crew:
        if not notifies:
            observer.connection.execute("ALTER TABLE tenure.job_requests DISABLE TRIGGER announce_work")
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.noop", "worker"]
        crew.start("worker", [*command, "--concurrency=1", "--loglevel=INFO"], until=" ready.")
        crew.start("relay", [sys.executable, "-m", "benchmarks.noop"], until="relay.listening")
        wal = observer.wal()
        made = _written(crew, observer, seconds)
        wal = observer.wal() - wal
        observer.connection.execute("TRUNCATE tenure.job_requests")
        _written(crew, observer, seconds, pause=PAUSE)
        return Sample(made / seconds, wal=wal, p99=float(observer.value(WAITS)) * 1_000)


def _written(crew: Crew, observer: Observer, seconds: int, *, pause: float = 0) -> int:
    """The number of commits; all requests are done."""
    writers = [sys.executable, "-m", "benchmarks.writers", observer.url, str(WRITERS), str(seconds), str(pause)]
    crew.start("writers", writers, until="ready")
    crew.await_end("writers")
    left = "SELECT count(*) FROM tenure.job_requests WHERE state IN ('pending', 'running')"
    crew.wait(lambda: not observer.value(left), "all requests are done", poll=0.1)
    return int(crew.log("writers").split()[-1])
