"""Plain Celery, prefork, two children, a message for each piece of work, on the broker that Tenure uses."""

from __future__ import annotations

import sys
from time import monotonic

import redis

from benchmarks.measure import Sample
from benchmarks.plain import QUEUE, app, noop
from benchmarks.servers import Servers

NAME = "plain Celery, a message each"


def run(servers: Servers, work: int) -> Sample:
    broker = servers.broker()
    app.conf["broker_url"] = servers.environment["TENURE_BROKER_URL"]
    with servers.crew() as crew:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.plain", "worker"]
        crew.start("worker", [*command, "--concurrency=2", "--loglevel=WARNING"])
        crew.wait(lambda: _listens(broker), "the worker waits for messages")
        with app.producer_or_acquire() as producer:
            for number in range(work):
                noop.apply_async((str(number),), queue=f"{QUEUE}.held", routing_key=f"{QUEUE}.held", producer=producer)
        assert broker.llen(f"{QUEUE}.held") == work
        used = servers.cpu() + crew.cpu("worker")
        begun = monotonic()
        broker.rename(f"{QUEUE}.held", QUEUE)
        crew.wait(lambda: not broker.llen(QUEUE) and not broker.hlen("unacked"), "all messages are taken", poll=0.002)
        seconds, used = monotonic() - begun, servers.cpu() + crew.cpu("worker") - used
        return Sample(work / seconds, crew.peak_memory("worker"), cpu=used)


def _listens(broker: redis.Redis) -> bool:
    """Whether a client waits for a message: a worker that logs nothing says nothing when it is ready."""
    return int(broker.info("clients")["blocked_clients"]) > 0
