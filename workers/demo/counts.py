"""How far the work is: counted in PostgreSQL, so that it is true whoever did it, and in the broker's queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, text

from workers.celery.routing import QUEUES

_COUNTS = text("""
    SELECT (SELECT count(*) FROM tenure.accounts WHERE status = 'active' AND statement_due_at <= now()) AS unplanned,
           (SELECT count(*) FROM tenure.sessions WHERE created_at <= now() - interval '24 hours') AS expired,
           (SELECT count(*) FROM tenure.quarantine) AS quarantined,
           statements.*, mails.*, requests.*
      FROM (SELECT count(*) AS statements, count(*) FILTER (WHERE state = 'done') AS statements_done,
                   count(*) FILTER (WHERE state IN ('pending', 'running')) AS statements_open
              FROM tenure.statements) AS statements,
           (SELECT count(*) AS mails, count(*) FILTER (WHERE state = 'done') AS mails_done,
                   count(*) FILTER (WHERE state IN ('pending', 'running')) AS mails_open
              FROM tenure.email_messages) AS mails,
           (SELECT count(*) AS requests, count(*) FILTER (WHERE state = 'done') AS requests_done,
                   count(*) FILTER (WHERE state IN ('pending', 'running')) AS requests_open
              FROM tenure.job_requests) AS requests""")


@dataclass(frozen=True, slots=True)
class Counts:
    """One look at the database. Of each kind of row: how many there are, are done, and are still to be done."""

    unplanned: int
    expired: int
    quarantined: int
    statements: int
    statements_done: int
    statements_open: int
    mails: int
    mails_done: int
    mails_open: int
    requests: int
    requests_done: int
    requests_open: int

    @property
    def idle(self) -> bool:
        """Whether nothing is due. One transaction makes a row done and adds what follows, so one look is enough."""
        return not (self.unplanned or self.expired or self.statements_open or self.mails_open or self.requests_open)


def count(connection: Connection) -> Counts:
    return Counts(**connection.execute(_COUNTS).one()._mapping)


class Broker:
    """How many messages wait in each queue."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)

    def waiting(self) -> Mapping[str, int]:
        """By queue, those that are not empty; nothing where the broker does not answer."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for queue in QUEUES:
                    pipeline.llen(queue)
                lengths = pipeline.execute()
        except (RedisError, OSError):
            return {}
        return {queue: length for queue, length in zip(QUEUES, lengths, strict=True) if length}

    def close(self) -> None:
        self._redis.close()
