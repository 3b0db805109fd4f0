"""The end of Celery's own ways to drop a message: what no task can take goes into quarantine, whole (W5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import sleep
from typing import Any
from uuid import uuid4

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage, outage_reason
from tasks.client.requests import KINDS
from tasks.requests.inbound import quarantine
from workers.celery.inspection import examine
from workers.settings.settings import settings

log = structlog.get_logger()

#: Seconds before a message that could not even be quarantined goes back to the broker.
PAUSE = 2.0


class Consumer(CeleryConsumer):
    """Celery logs such messages, with their contents, and forgets them; this keeps them and logs neither."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def receive(message: Any) -> None:
            refusal = examine(message, self.strategies)  # type: ignore[attr-defined]
            if refusal is None:
                handle(message)
            else:
                _keep(message, refusal.kind, refusal.reason)

        return receive

    # What passed the inspection comes to none of these; a message that cannot even be unpacked comes to the last.

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.on_invalid_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.on_invalid_task(body, message, ValueError())

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        _keep(message, None, f"The message is not well formed ({type(exc).__name__}).")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        _keep(message, None, f"The message cannot be unpacked ({type(exc).__name__}).")


def _keep(message: Any, kind: str | None, reason: str) -> None:
    headers = message.headers if isinstance(message.headers, dict) else {}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "surrogatepass")
    message_id = str(headers.get("id") or message.properties.get("correlation_id") or uuid4())[:200]
    # This runs in Celery's main process: a connection of its own, closed before the next child is forked.
    database = Database(settings().database_url, pool_size=1)
    try:
        with database.transaction() as session:
            quarantine(
                session,
                message_id=_clean(message_id),
                kind=kind and _clean(kind),
                body=body,
                reason=_clean(reason),
                headers=json.loads(_clean(json.dumps(headers, default=str)).replace("\\u0000", "")),
            )
    except DBAPIError as error:
        if is_outage(error):
            log.warning("postgresql.unavailable", reason=outage_reason(error))
        else:
            log.error("request.not_quarantined", kind=kind if kind in KINDS else None, error=type(error).__name__)
        sleep(PAUSE)
        message.requeue()
        return
    finally:
        database.engine.dispose()
    # The reason may quote the message: it is in the row alone.
    log.warning("request.quarantined", kind=kind if kind in KINDS else None)
    message.ack()


def _clean(text: str) -> str:
    """Without what PostgreSQL cannot keep as text: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
