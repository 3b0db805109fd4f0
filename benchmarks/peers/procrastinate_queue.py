"""Procrastinate on the same PostgreSQL: two processes, a row for each piece of work.

python -m benchmarks.peers.procrastinate_queue GO      # says "ready", waits for the file GO, works
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from time import sleep

from procrastinate import App, PsycopgConnector

from benchmarks.measure import Sample
from benchmarks.servers import Observer, Servers

NAME = "Procrastinate (PostgreSQL)"
#: Jobs at a time in one process: more is no faster.
CONCURRENCY = 10

app = App(connector=PsycopgConnector(conninfo=os.environ.get("TENURE_DATABASE_URL", ""), max_size=CONCURRENCY + 2))


@app.task(name="noop")
async def noop(row: str) -> None:
    """Nothing."""


def run(servers: Servers, work: int) -> Sample:
    with servers.database(migrated=False) as observer, servers.crew(observer.url) as crew:
        install(observer)
        observer.connection.execute(
            """INSERT INTO procrastinate_jobs (queue_name, task_name, args)
               SELECT 'default', 'noop', jsonb_build_object('row', row::text) FROM generate_series(1, %s) AS row""",
            (work,),
        )
        observer.connection.execute("VACUUM ANALYZE procrastinate_jobs")
        go = crew.directory / "go"
        for number in (1, 2):
            command = [sys.executable, "-m", "benchmarks.peers.procrastinate_queue", str(go)]
            crew.start(f"worker-{number}", command, until="ready")
        wal, used = observer.wal(), servers.cpu() + crew.cpu("worker-1", "worker-2")
        go.touch()
        left = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        crew.wait(lambda: not observer.value(left), "all jobs are done", poll=0.1)
        used = servers.cpu() + crew.cpu("worker-1", "worker-2") - used
        seconds = observer.value(
            """SELECT extract(epoch FROM max(at) FILTER (WHERE type = 'succeeded')
                                       - min(at) FILTER (WHERE type = 'started')) FROM procrastinate_events"""
        )
        done = observer.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
        assert done == work, f"Procrastinate did {done} of {work}"
        return Sample(work / float(seconds), crew.peak_memory("worker-1", "worker-2"), observer.wal() - wal, used)


def latencies(servers: Servers, requests: int) -> list[float]:
    """Milliseconds from the transaction that defers a job to that which starts it, in an idle system."""
    with servers.database(migrated=False) as observer, servers.crew(observer.url) as crew:
        install(observer)
        go = crew.directory / "go"
        go.touch()
        crew.start("worker", [sys.executable, "-m", "benchmarks.peers.procrastinate_queue", str(go)], until="ready")
        for _ in range(requests + 3):
            observer.connection.execute(
                """SELECT procrastinate_defer_jobs_v1(ARRAY[
                       ROW('default', 'noop', 0, NULL, NULL, '{"row": "1"}', NULL)::procrastinate_job_to_defer_v1])"""
            )
            sleep(0.23)
        left = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        crew.wait(lambda: not observer.value(left), "all jobs are done", poll=0.1)
        taken = observer.connection.execute(
            """SELECT 1000 * extract(epoch FROM max(at) FILTER (WHERE type = 'started')
                                             - max(at) FILTER (WHERE type = 'deferred'))
                 FROM procrastinate_events GROUP BY job_id ORDER BY job_id"""
        ).fetchall()
        return [float(row[0]) for row in taken[3:]]


def install(observer: Observer) -> None:
    """Procrastinate's own tables, in the database that the observer looks at."""
    schema = App(connector=PsycopgConnector()).schema_manager.get_schema()
    observer.connection.execute(schema.encode())


async def work(go: Path) -> None:
    async with app.open_async():
        print("ready", flush=True)
        while not go.exists():
            await asyncio.sleep(0.001)
        await app.run_worker_async(concurrency=CONCURRENCY, wait=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
