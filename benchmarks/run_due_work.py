"""P1: run due work that does nothing, and P11: ten times the work in no more than eleven times the time.

The work is rows of `tenure.job_requests` that are due. Time is PostgreSQL's own, from the moment at which a paused job
is resumed, so with the relay's and the broker's share, to the last row's `finished_at`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from statistics import median

from benchmarks import peers
from benchmarks.measure import Better, Goal, Measured, Row, Sample, interleaved
from benchmarks.processes import Crew
from benchmarks.servers import Observer, Servers

TASK = "benchmarks.noop"
BATCH = 500
LIMIT = f"psycopg: claim and finish, {BATCH} at a time, 2 processes"
OURS = "Tenure: a Celery worker with 2 children"

#: The peers, and which part of the work each gets: a rate needs seconds, not hours.
PARTS = {"celery_messages": 40, "huey_queue": 10, "procrastinate_queue": 100, "pgqueuer_queue": 10}
LEAST = 20
#: Rows before the first that are measured.
WARM = 2_000
CELERY = "celery_messages"


def rows(servers: Servers, work: int, runs: int) -> Row:
    """P1."""
    installed, missing = peers.installed(*PARTS)
    contestants = {LIMIT: partial(limit, servers, work), OURS: partial(ours, servers, work)}
    parts = {peer.NAME: max(LEAST, work // PARTS[peer.__name__.rpartition(".")[2]]) for peer in installed}
    contestants |= {peer.NAME: partial(peer.run, servers, parts[peer.NAME]) for peer in installed}
    measured = interleaved(contestants, runs)
    row = Row(
        "P1",
        f"run {work:,} rows of due work that does nothing",
        "rows/s",
        Better.HIGHER,
        measured.pop(OURS),
        measured.pop(LIMIT),
        list(measured.values()),
        notes=[f"{name} did {part:,} rows; its WAL and CPU are of those" for name, part in parts.items()] + missing,
    )
    assert row.limit is not None
    of_limit, of_celery = row.ratio(row.limit), row.ratio(row.peers[0])
    row.goals = [
        Goal("≥ 50 % of the limit", f"{of_limit:.0%}", of_limit >= 0.5),
        Goal("≥ 40 × plain Celery with a message each", f"{of_celery:.0f} ×", of_celery >= 40),
    ]
    return row


def growth(servers: Servers, work: int, runs: int) -> Row:
    """P11: a hundredth and a tenth of the work, and how the time grows from each to the next."""
    sizes = [max(1, work // 100), max(1, work // 10), work]
    of_ours: list[list[Sample]] = []
    of_limit: list[list[Sample]] = []
    for _ in range(runs):
        of_ours.append(ours_at(servers, sizes))
        of_limit.append([limit(servers, size) for size in sizes])

    def factors(contestant: list[list[Sample]], smaller: int) -> list[float]:
        """Of each run, how many times as long the next size took."""
        few, many = sizes[smaller], sizes[smaller + 1]
        return [(many / run[smaller + 1].value) / (few / run[smaller].value) for run in contestant]

    def last_step(name: str, contestant: list[list[Sample]]) -> Measured:
        largest = [run[-1] for run in contestant]
        pairs = zip(factors(contestant, len(sizes) - 2), largest, strict=True)
        return Measured(name, [Sample(factor, each.memory, each.wal, each.cpu) for factor, each in pairs])

    steps = [median(factors(of_ours, smaller)) for smaller in range(len(sizes) - 1)]
    rates = [f"{size:,} rows at {median(run[at].value for run in of_ours):,.0f}/s" for at, size in enumerate(sizes)]
    return Row(
        "P11",
        f"times as long for 10 × the work of P1, {sizes[1]:,} to {sizes[2]:,} rows",
        "×",
        Better.LOWER,
        last_step(OURS, of_ours),
        last_step(LIMIT, of_limit),
        goals=[
            Goal("10 × the work in ≤ 11 × the time", ", ".join(f"{step:.1f} ×" for step in steps), max(steps) <= 11)
        ],
        notes=[f"ours did {', '.join(rates)}"],
    )


def ours(servers: Servers, work: int) -> Sample:
    return ours_at(servers, [work])[0]


def ours_at(servers: Servers, sizes: Sequence[int]) -> list[Sample]:
    """A real worker and the relay, warm; the rows of each size wait under a paused job until it is resumed."""
    servers.broker()
    with servers.database() as observer, servers.crew(observer.url) as crew:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.noop", "worker"]
        crew.start("worker", [*command, "--concurrency=2", "--loglevel=INFO"], until=" ready.")
        crew.start("relay", [sys.executable, "-m", "benchmarks.noop"], until="relay.listening")
        observer.connection.execute("INSERT INTO tenure.work_controls (task, paused) VALUES (%s, true)", (TASK,))
        _drained(servers, observer, crew, WARM)
        return [_drained(servers, observer, crew, work) for work in sizes]


def _drained(servers: Servers, observer: Observer, crew: Crew, work: int) -> Sample:
    _pause(observer, True)
    observer.connection.execute("TRUNCATE tenure.job_requests")
    _fill(observer, work)
    wal, used = observer.wal(), servers.cpu() + crew.cpu("worker", "relay")
    begun: datetime = observer.value("SELECT clock_timestamp()")
    _pause(observer, False)
    _await_all(crew, observer, work)
    seconds = _seconds(observer, work, begun)
    used = servers.cpu() + crew.cpu("worker", "relay") - used
    return Sample(work / seconds, crew.peak_memory("worker"), observer.wal() - wal, used)


def _pause(observer: Observer, paused: bool) -> None:
    """What `tenure work pause` and `resume` write; the notification stands for the relay's next look."""
    with observer.connection.transaction():
        observer.connection.execute("UPDATE tenure.work_controls SET paused = %s WHERE task = %s", (paused, TASK))
        observer.connection.execute("SELECT pg_notify('tenure_work', 'job_requests')")


def limit(servers: Servers, work: int) -> Sample:
    with servers.database() as observer, servers.crew() as crew:
        go = crew.directory / "go"
        for number in (1, 2):
            command = [sys.executable, "-m", "benchmarks.limit", observer.url, str(BATCH), str(go)]
            crew.start(f"limit-{number}", command, until="ready")
        _fill(observer, work)
        wal, used = observer.wal(), servers.cpu()
        begun = observer.value("SELECT clock_timestamp()")
        go.touch()
        crew.await_end("limit-1")
        crew.await_end("limit-2")
        seconds, used = _seconds(observer, work, begun), servers.cpu() - used
        told = [crew.log(name).split() for name in ("limit-1", "limit-2")]
        memory, used = sum(int(words[-3]) for words in told), used + sum(float(words[-1]) for words in told)
        return Sample(work / seconds, memory, observer.wal() - wal, used)


def _fill(observer: Observer, work: int) -> None:
    """Due rows, in a table as PostgreSQL's own housekeeping keeps it."""
    observer.connection.execute(
        "INSERT INTO tenure.job_requests (kind, args) SELECT %s, '{}' FROM generate_series(1, %s)", (TASK, work)
    )
    observer.connection.execute("VACUUM ANALYZE tenure.job_requests")


def _await_all(crew: Crew, observer: Observer, work: int) -> None:
    left = """SELECT EXISTS (SELECT FROM tenure.job_requests WHERE state = 'pending')
                  OR EXISTS (SELECT FROM tenure.job_requests WHERE state = 'running')"""
    crew.wait(lambda: not observer.value(left), f"{work} rows are done", poll=0.1)


def _seconds(observer: Observer, work: int, begun: datetime) -> float:
    done, seconds = observer.connection.execute(
        "SELECT count(*) FILTER (WHERE state = 'done' AND attempts = 1), extract(epoch FROM max(finished_at) - %s)"
        " FROM tenure.job_requests",
        (begun,),
    ).fetchone() or (0, 0)
    assert done == work, f"{done} rows of {work} were done once"
    return float(seconds)
