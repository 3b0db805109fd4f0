"""Waking tasks: one message waits in the broker for each, however many have a reason to send one (W6).

A key in Redis says that a message waits; the task removes it when it begins. Both may vanish (FLUSHALL, a crash): then
one message too many or, until the next poll or tick, one too few is sent, and neither matters.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from tasks.engine.failpoints import failpoint
from workers.celery.routing import ROUTES

log = structlog.get_logger()

#: Seconds after which a message that nobody took is believed to be lost.
BELIEVED_LOST = 15
#: With no worker at all, a queue does not grow beyond this.
LONGEST_QUEUE = 50


class RedisWaker:
    """The port `tasks.ports.Waker` over Celery's own broker connection."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, task: str) -> None:
        queue = ROUTES[task]
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                redis = _redis(producer)
                if not redis.set(_key(task), "1", nx=True, ex=BELIEVED_LOST) or redis.llen(queue) >= LONGEST_QUEUE:
                    return
                failpoint("waker", "before_publish")
                self._app.send_task(task, producer=producer, queue=queue, retry=False)
        except (BrokerError, RedisError, OSError) as error:
            log.warning("broker.unavailable", task=task, reason=_reason(error))

    def waits(self, task: str) -> bool:
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                return bool(_redis(producer).exists(_key(task)))
        except (BrokerError, RedisError, OSError) as error:
            log.warning("broker.unavailable", task=task, reason=_reason(error))
            return False

    def begun(self, task: str) -> None:
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                _redis(producer).delete(_key(task))
        except (BrokerError, RedisError, OSError) as error:
            log.warning("broker.unavailable", task=task, reason=_reason(error))

    def note(self, key: str, seconds: int) -> None:
        """Leave a key in Redis for a while."""
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                _redis(producer).set(key, "1", ex=seconds)
        except (BrokerError, RedisError, OSError) as error:
            log.warning("broker.unavailable", reason=_reason(error))


def _redis(producer: Any) -> Any:
    """The client under kombu's channel: the same connection that publishes."""
    return producer.channel.client


def _key(task: str) -> str:
    return f"tenure:waiting:{task}"


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
