"""Huey on the same broker: two worker processes, a message for each piece of work."""

from __future__ import annotations

import os
import sys
from time import monotonic

import redis
from huey import RedisHuey  # type: ignore[import-untyped]

from benchmarks.measure import Sample
from benchmarks.servers import Servers

NAME = "Huey (Redis)"
HELD = "held"

queue = RedisHuey("bench", url=os.environ.get("TENURE_BROKER_URL"), results=False)


@queue.task()  # type: ignore[untyped-decorator]
def noop(row: str) -> None:
    """Nothing."""


def run(servers: Servers, work: int) -> Sample:
    broker = servers.broker()
    queue.storage.conn = broker
    for number in range(work):
        queue.enqueue(noop.s(str(number)))
    key = queue.storage.queue_key
    broker.rename(key, HELD)
    with servers.crew() as crew:
        command = [sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks.peers.huey_queue.queue"]
        options = ["--worker-type=process", "--workers=2", "--quiet", "--no-periodic"]
        crew.start("consumer", [*command, *options])
        crew.wait(lambda: _blocked(broker) >= 2, "both workers wait for work")
        used = servers.cpu() + crew.cpu("consumer")
        begun = monotonic()
        broker.rename(HELD, key)
        crew.wait(lambda: not broker.llen(key), "all messages are taken", poll=0.002)
        seconds, used = monotonic() - begun, servers.cpu() + crew.cpu("consumer") - used
        return Sample(work / seconds, crew.peak_memory("consumer"), cpu=used)


def _blocked(broker: redis.Redis) -> int:
    """How many clients wait for a message."""
    return int(broker.info("clients")["blocked_clients"])
