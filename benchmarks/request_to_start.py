"""P2: from the web transaction's commit to the work, in an idle system.

A request is made as a web tier does, `tenure.request(...)` in a transaction, with the real worker and relay waiting.
It begins at the database's clock just before COMMIT and ends at the request's `finished_at`, by the same clock. So what
is told as ours holds COMMIT, the notification, the relay, the broker, the worker, the claim *and* the effect of the
request: the task began earlier than that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from statistics import median, quantiles
from time import sleep
from typing import Any

import psycopg

from benchmarks import peers
from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.processes import Crew
from benchmarks.servers import Observer, Servers

#: Seconds between two requests: long enough that everything is idle again, and no multiple of the relay's poll.
PAUSE = 0.23
LIMIT = "psycopg: LISTEN, then claim and finish"
OURS = "Tenure: request to its effect"

ACCOUNT = (
    "INSERT INTO tenure.accounts (ref, name, currency, period_start) VALUES ('bench', 'Bench', 'EUR', '2026-01-01')"
)
REQUEST = """SELECT tenure.request('sessions.revoke', '{"account": "bench"}')"""


def rows(servers: Servers, requests: int, runs: int) -> Row:
    taken: dict[str, list[float]] = {}

    def run(name: str, contestant: Callable[[Servers, int], list[float]]) -> Callable[[], Sample]:
        def once() -> Sample:
            latencies = contestant(servers, requests)
            taken.setdefault(name, []).extend(latencies)
            return Sample(median(latencies), p99=percentile_99(latencies))

        return once

    installed, missing = peers.installed("procrastinate_queue")
    contestants = {LIMIT: run(LIMIT, limit), OURS: run(OURS, ours)}
    contestants |= {module.NAME: run(module.NAME, module.latencies) for module in installed}
    measured = interleaved(contestants, runs)
    p50, p99 = median(taken[OURS]), percentile_99(taken[OURS])
    return Row(
        "P2",
        f"request to its effect, idle system, {requests * runs} requests",
        "ms",
        Better.LOWER,
        measured.pop(OURS),
        measured.pop(LIMIT),
        list(measured.values()),
        [Goal("p50 < 20 ms", f"{p50:.1f} ms", p50 < 20), Goal("p99 < 200 ms", f"{p99:.1f} ms", p99 < 200)],
        missing,
    )


def ours(servers: Servers, requests: int) -> list[float]:
    """The worker and the relay as they are deployed, and an account that has nobody to tell."""
    servers.broker()
    with servers.database() as observer, servers.crew(observer.url) as crew:
        observer.connection.execute(ACCOUNT)
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        crew.start("worker", [*command, "--concurrency=2", "--loglevel=INFO"], until=" ready.")
        crew.start("relay", [sys.executable, "-m", "workers.commands", "relay"], until="relay.listening")
        return _ask(crew, observer, requests)


def limit(servers: Servers, requests: int) -> list[float]:
    with servers.database() as observer, servers.crew() as crew:
        observer.connection.execute(ACCOUNT)
        crew.start("limit", [sys.executable, "-m", "benchmarks.listen", observer.url], until="ready")
        return _ask(crew, observer, requests)


def _ask(crew: Crew, observer: Observer, requests: int) -> list[float]:
    """Milliseconds of each request; three before them warm every process."""
    begun: dict[Any, datetime] = {}
    with psycopg.connect(observer.url, application_name="web tier") as web:
        for number in range(requests + 3):
            asked = web.execute(REQUEST).fetchone()
            clock = web.execute("SELECT clock_timestamp()").fetchone()
            web.commit()
            assert asked is not None
            assert clock is not None
            if number >= 3:
                begun[asked[0]] = clock[0]
            sleep(PAUSE)
    left = "SELECT count(*) FROM tenure.job_requests WHERE state <> 'done'"
    crew.wait(lambda: not observer.value(left), "all requests are done", seconds=60)
    ended = dict(observer.connection.execute("SELECT id, finished_at FROM tenure.job_requests").fetchall())
    assert len(ended) == requests + 3
    return [(ended[row] - clock).total_seconds() * 1_000 for row, clock in begun.items()]


def percentile_99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
