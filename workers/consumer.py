"""The end of Celery's own ways to drop a message: what no task can take goes into quarantine, whole (W5)."""

from __future__ import annotations

import json
from time import sleep
from typing import Any
from uuid import uuid4

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.exceptions import ContentDisallowed
from sqlalchemy.exc import DBAPIError

from models.unit_of_work import Database, is_outage, outage_reason
from tasks.entry import quarantine
from tasks.requests import KINDS
from workers.settings import settings

log = structlog.get_logger()

#: Seconds before a message that could not even be quarantined goes back to the broker.
PAUSE = 2.0


class Consumer(CeleryConsumer):
    """Celery logs such messages, with their contents, and forgets them; this keeps them and logs neither."""

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        name = _name(message)
        reason = f'There is no request "{name}". One can ask for {", ".join(sorted(KINDS))}.'
        _keep(message, name, reason)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        _keep(message, None, "This is not a task message: it names no task.")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        if isinstance(exc, ContentDisallowed):
            self.on_decode_error(message, exc)
        else:
            _keep(message, _name(message), f"The message is not well formed ({type(exc).__name__}).")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        kind = str(message.content_type)[:80]
        _keep(message, _name(message), f"Only JSON is read here, and the message says that it is {kind}.")


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
            log.error("request.not_quarantined", kind=kind, error=type(error).__name__)
        sleep(PAUSE)
        message.requeue()
        return
    finally:
        database.engine.dispose()
    log.warning("request.quarantined", kind=kind, reason=reason)
    message.ack()


def _name(message: Any) -> str | None:
    headers = message.headers if isinstance(message.headers, dict) else {}
    name = headers.get("task")
    return name[:200] if isinstance(name, str) else None


def _clean(text: str) -> str:
    """Without what PostgreSQL cannot keep as text: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
