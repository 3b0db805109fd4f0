"""The end of Celery's own ways to drop a message: what no task can take goes into quarantine, whole (W5)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import sleep
from typing import Any
from uuid import uuid4

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import active_requests
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_outage, outage_reason
from tasks.client.requests import KINDS
from tasks.failures import describe
from tasks.requests.inbound import quarantine
from tasks.storage.text import cleaned
from workers.celery.inspection import Refusal, examine
from workers.celery.liveness import EVERY, LIVENESS
from workers.celery.transport import reason
from workers.settings.settings import settings

log = structlog.get_logger()

#: Seconds before a message that could not even be quarantined goes back to the broker.
PAUSE = 2.0


#: Seconds without an answer of the broker after which a worker that has a free process connects anew.
SILENCE = 20.0
#: Seconds between two attempts to connect.
RECONNECT = 1.0


class Consumer(CeleryConsumer):
    """Celery logs such messages, with their contents, and forgets them; this keeps them and logs neither.

    It also notes that the worker takes messages (`workers.celery.liveness`), and connects anew where it takes none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Workers need to know nothing of each other, and what they would hear may come from anybody.
        super().__init__(*args, **kwargs | {"without_gossip": True, "without_mingle": True})

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.timer.call_repeatedly(EVERY, self._watch)

    def _watch(self) -> None:
        """Raises ConnectionError, for which Celery opens the connection anew."""
        LIVENESS.write(is_full=len(active_requests) >= self.pool.num_processes)
        if LIVENESS.silent_for() > SILENCE:
            raise ConnectionError(f"the broker has not answered for {SILENCE:.0f} s")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._note_loss(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._note_loss(exc)

    def _note_loss(self, error: Exception) -> None:
        """Called between two attempts to connect. Celery would try again at once, some fifty times a second."""
        why = reason(error)
        if LIVENESS.broker_lost(why):
            log.warning("broker.unavailable", reason=why)
        sleep(RECONNECT)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def receive(message: Any) -> None:
            refusal = _examined(message, self.strategies)  # type: ignore[attr-defined]
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


def _examined(message: Any, tasks: Collection[str]) -> Refusal | None:
    try:
        return examine(message, tasks)
    except Exception as error:
        why = f"It could not be read through a fault of Tenure's ({describe(error)}): replay it when that is mended."
        return Refusal(None, why)


def _keep(message: Any, kind: str | None, why: str) -> None:
    """Put the message into quarantine, or back into its queue where PostgreSQL does not take it. Raises nothing."""
    # This runs in Celery's main process: a connection of its own, closed before the next child is forked.
    database = Database(settings().database_url, pool_size=1)
    try:
        _store(database, message, kind, why)
    except Exception as error:
        if isinstance(error, DBAPIError) and is_outage(error):
            log.warning("postgresql.unavailable", reason=outage_reason(error))
        else:
            log.error("request.not_quarantined", kind=kind if kind in KINDS else None, error=describe(error))
        sleep(PAUSE)
        message.requeue()
        return
    finally:
        database.engine.dispose()
    # The reason may quote the message: it is in the row alone.
    log.warning("request.quarantined", kind=kind if kind in KINDS else None)
    message.ack()


def _store(database: Database, message: Any, kind: str | None, why: str) -> None:
    headers = message.headers if isinstance(message.headers, dict) else {}
    if message.properties.get("compression"):
        headers = headers | {"compression": message.properties["compression"]}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "surrogatepass")
    message_id = headers.get("id") or message.properties.get("correlation_id") or uuid4()
    with database.transaction() as session:
        quarantine(
            session,
            message_id=message_id if isinstance(message_id, str) else str(cleaned(message_id)),
            kind=kind,
            body=body,
            reason=why,
            headers=headers,
        )
