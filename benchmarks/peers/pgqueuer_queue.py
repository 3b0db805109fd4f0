"""PgQueuer on the same PostgreSQL: two processes, which claim and record in batches as Tenure does.

python -m benchmarks.peers.pgqueuer_queue GO      # says "ready", waits for the file GO, works
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.measure import Sample
from benchmarks.servers import Servers

NAME = "PgQueuer (PostgreSQL)"
#: Jobs that one process claims at a time: more is no faster.
BATCH = 100


def run(servers: Servers, work: int) -> Sample:
    with servers.database(migrated=False) as observer, servers.crew(observer.url) as crew:
        asyncio.run(fill(observer.url, work))
        observer.connection.execute("VACUUM ANALYZE pgqueuer")
        go = crew.directory / "go"
        for number in (1, 2):
            crew.start(
                f"worker-{number}", [sys.executable, "-m", "benchmarks.peers.pgqueuer_queue", str(go)], until="ready"
            )
        wal, used = observer.wal(), servers.cpu() + crew.cpu("worker-1", "worker-2")
        go.touch()
        finished = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"
        crew.wait(lambda: observer.value(finished) >= work, "all jobs are done", poll=0.1)
        used = servers.cpu() + crew.cpu("worker-1", "worker-2") - used
        seconds = observer.value(
            "SELECT extract(epoch FROM max(created) FILTER (WHERE status = 'successful')"
            " - min(created) FILTER (WHERE status = 'picked')) FROM pgqueuer_log"
        )
        return Sample(work / float(seconds), crew.peak_memory("worker-1", "worker-2"), observer.wal() - wal, used)


async def fill(url: str, work: int) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        queries = Queries(PsycopgDriver(connection))
        await queries.install()
        for begin in range(0, work, 10_000):
            count = min(10_000, work - begin)
            await queries.enqueue(["noop"] * count, [b""] * count, [0] * count)


async def work(go: Path) -> None:
    url = os.environ["TENURE_DATABASE_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        queue = PgQueuer(PsycopgDriver(connection))

        @queue.entrypoint("noop")
        async def noop(job: Job) -> None:
            """Nothing."""

        print("ready", flush=True)
        while not go.exists():
            await asyncio.sleep(0.001)
        await queue.run(
            batch_size=BATCH,
            mode=QueueExecutionMode.continuous,
            log_aggregation_interval=timedelta(0),
            dequeue_timeout=timedelta(seconds=30),
        )


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
