"""P3: statements end to end, from a paused job that is resumed to the last one that is stored and has its mail queued.

The limit is the making of the same PDFs alone, from documents in memory, in two processes. HTML and text are made when
a mail is sent, and so stand in P5, in neither of the two.
"""

from __future__ import annotations

import sys
from datetime import datetime
from functools import partial
from itertools import pairwise
from statistics import median

from benchmarks import peers
from benchmarks.measure import Better, Goal, Measured, Row, Sample, interleaved
from benchmarks.servers import Observer, Servers
from benchmarks.statement_books import fill

TASK = "statements.render"
#: On one page.
LINES = 20
OURS = "Tenure: a Celery worker with 2 children"
LIMIT = "Typst alone, 2 processes"
#: Before the first that are measured, so that every process has its fonts.
WARM = 60
#: What part of the work the peer gets.
PART = 10
LEAST = 10


def rows(servers: Servers, work: int, runs: int) -> Row:
    """P3."""
    installed, missing = peers.installed("weasyprint_statements")
    contestants = {LIMIT: partial(limit, servers, work), OURS: partial(ours, servers, work)}
    few = max(LEAST, work // PART)
    contestants |= {peer.NAME: partial(peer.run, servers, few) for peer in installed}
    measured = interleaved(contestants, runs)
    row = Row(
        "P3",
        f"{work:,} statements of {LINES} lines: PDF made and stored, mail queued",
        "statements/s",
        Better.HIGHER,
        measured.pop(OURS),
        measured.pop(LIMIT),
        list(measured.values()),
        notes=[f"{peer.NAME} did {few:,}" for peer in installed] + missing,
    )
    assert row.limit is not None
    of_limit = row.ratio(row.limit)
    row.goals = [Goal("≥ 70 % of rendering alone", f"{of_limit:.0%}", of_limit >= 0.7)]
    for peer in row.peers:
        times = row.ratio(peer)
        row.goals.append(Goal("≥ 5 × a task each with WeasyPrint", f"{times:.1f} ×", times >= 5))
    return row


def growth(servers: Servers, work: int, runs: int) -> Row:
    """P11 for P3: a hundredth and a tenth of the statements, and how the time grows from each to the next."""
    sizes = [max(1, work // 100), max(1, work // 10), work]
    taken = [[ours(servers, each) for _ in range(runs)] for each in sizes]
    seconds = [median(each / sample.value for sample in samples) for each, samples in zip(sizes, taken, strict=True)]
    steps = [more / fewer for fewer, more in pairwise(seconds)]
    last = [Sample(steps[-1], sample.memory, sample.wal, sample.cpu) for sample in taken[-1]]
    return Row(
        "P11-P3",
        f"times as long for 10 × the statements of P3, {sizes[1]:,} to {sizes[2]:,}",
        "×",
        Better.LOWER,
        Measured(OURS, last),
        goals=[
            Goal("10 × the work in ≤ 11 × the time", ", ".join(f"{step:.1f} ×" for step in steps), max(steps) <= 11)
        ],
    )


def ours(servers: Servers, work: int) -> Sample:
    servers.broker()
    with servers.database() as observer, servers.crew(observer.url, drain_seconds=60) as crew:
        observer.connection.execute(
            "INSERT INTO tenure.work_controls (task, paused) VALUES (%s, true), ('emails.send', true)", (TASK,)
        )
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        crew.start("worker", [*command, "--concurrency=2", "--loglevel=INFO"], until=" ready.")
        crew.start("relay", [sys.executable, "-m", "workers.commands", "relay"], until="relay.listening")
        fill(observer, WARM + work, LINES)
        crew.start("planner", [sys.executable, "-m", "benchmarks.planner"])
        crew.await_end("planner")
        # All but a few wait while the children load Typst and its fonts.
        observer.connection.execute(
            "UPDATE tenure.statements SET due_at = 'infinity' WHERE id IN (SELECT id FROM tenure.statements LIMIT %s)",
            (work,),
        )
        _pause(observer, False)
        crew.wait(lambda: _left(observer) == 0, "the first statements are done", poll=0.05)
        _pause(observer, True)
        observer.connection.execute("UPDATE tenure.statements SET due_at = now() WHERE state = 'pending'")
        wal, used = observer.wal(), servers.cpu() + crew.cpu("worker", "relay")
        begun: datetime = observer.value("SELECT clock_timestamp()")
        _pause(observer, False)
        crew.wait(lambda: _left(observer) == 0, f"{work} statements are done", poll=0.05)
        used = servers.cpu() + crew.cpu("worker", "relay") - used
        done, mails, seconds = observer.connection.execute(
            """SELECT count(*) FILTER (WHERE state = 'done' AND document_bytes > 10000),
                      (SELECT count(*) FROM tenure.email_messages), extract(epoch FROM max(finished_at) - %s)
                 FROM tenure.statements""",
            (begun,),
        ).fetchone() or (0, 0, 0)
        assert done == mails == WARM + work, f"{done} statements and {mails} mails of {WARM + work} were made"
        return Sample(work / float(seconds), crew.peak_memory("worker"), observer.wal() - wal, used)


def limit(servers: Servers, work: int) -> Sample:
    with servers.database() as observer, servers.crew(observer.url) as crew:
        fill(observer, work, LINES)
        crew.start("planner", [sys.executable, "-m", "benchmarks.planner"])
        crew.await_end("planner")
        go = crew.directory / "go"
        for number in (0, 1):
            command = [sys.executable, "-m", "benchmarks.render_alone", str(number), str(go)]
            crew.start(f"limit-{number}", command, until="ready")
        begun: datetime = observer.value("SELECT clock_timestamp()")
        go.touch()
        crew.await_end("limit-0")
        crew.await_end("limit-1")
        seconds = float(observer.value("SELECT extract(epoch FROM clock_timestamp() - %s)", begun))
        told = [crew.log(f"limit-{number}").split() for number in (0, 1)]
        made = sum(int(words[-3]) for words in told)
        assert made == work, f"{made} documents of {work} were made"
        return Sample(
            work / seconds, sum(int(words[-2]) for words in told), cpu=sum(float(words[-1]) for words in told)
        )


def _pause(observer: Observer, paused: bool) -> None:
    """What `tenure work pause` and `resume` write; the notification stands for the relay's next look."""
    with observer.connection.transaction():
        observer.connection.execute("UPDATE tenure.work_controls SET paused = %s WHERE task = %s", (paused, TASK))
        observer.connection.execute("SELECT pg_notify('tenure_work', 'statements')")


def _left(observer: Observer) -> int:
    return int(
        observer.value(
            "SELECT count(*) FROM tenure.statements"
            " WHERE state = 'running' OR (state = 'pending' AND due_at < 'infinity')"
        )
    )
