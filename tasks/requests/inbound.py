"""Messages from outside: each kind of request is a Celery task of that name, which only stores it (W5, W21).

    app.send_task("statements.send", kwargs={"account": "acme"})     # any Celery client, any language

A message is acknowledged when it is a row: in `job_requests`, or in quarantine with the reason. Delivered again, it
finds its row. One for an account whose contract is over is dropped (T10). An optional keyword argument `dedupe_key`
works as in `tenure.request`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from time import sleep
from typing import Any

import structlog
from celery import Task, shared_task
from celery.exceptions import Reject
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import is_outage, outage_reason
from models.work.request import Quarantined
from tasks.client.requests import KINDS, AccountEnded, RequestRefused, ask
from tasks.engine.failpoints import failpoint
from tasks.failures import describe
from tasks.ports.context import Ports, current
from tasks.storage.text import clean_text, cleaned

log = structlog.get_logger()

#: Seconds that a message waits in the hand of a worker before it goes back to the broker, when PostgreSQL is away.
PAUSE = 2.0


def accept(kind: str, args: Sequence[Any], kwargs: dict[str, Any], *, message_id: str, ports: Ports) -> dict[str, int]:
    """Store the request that a message makes, or the message and why it makes none."""
    message_id = _short(message_id)
    key = kwargs.get("dedupe_key")
    wanted = {name: value for name, value in kwargs.items() if name != "dedupe_key"}
    with ports.database.transaction() as session:
        try:
            if args:
                raise RequestRefused(f'"{kind}" takes keyword arguments only, and {len(args)} came without a name.')
            if not isinstance(key, str | None):
                raise RequestRefused("the dedupe key must be text of 1 to 200 characters.")
            ask(session, kind, wanted, dedupe_key=f"message:{message_id}" if key is None else key, source="queue")
        except AccountEnded:
            # Sent before its account was frozen, say. It names that, and so nothing of it is kept (T10).
            log.info("request.dropped", kind=kind, reason="the contract of its account is over")
            return {"accepted": 0, "dropped": 1}
        except RequestRefused as refusal:
            quarantine(session, message_id=message_id, kind=kind, body=_body(args, kwargs), reason=str(refusal))
            # The reason may quote the message: it is in the row alone.
            log.warning("request.quarantined", kind=kind)
            return {"accepted": 0, "quarantined": 1}
        failpoint("requests", "before_commit")
    failpoint("requests", "after_commit")
    return {"accepted": 1}


def keep(
    kind: str, args: Sequence[Any], kwargs: dict[str, Any], bug: Exception, *, message_id: str, ports: Ports
) -> dict[str, int]:
    """Quarantine a message that was not accepted through a fault of ours; it is replayed when that is mended."""
    reason = f"It could not be accepted through a fault of Tenure's ({describe(bug)}): replay it when that is mended."
    with ports.database.transaction() as session:
        body = _body(args, kwargs)
        quarantine(session, message_id=_short(message_id), kind=kind, body=body, reason=reason)
    log.error("request.quarantined", kind=kind, reason=reason)
    return {"accepted": 0, "quarantined": 1}


def _body(args: Sequence[Any], kwargs: dict[str, Any]) -> bytes:
    # Escaped, so that half a surrogate pair, which JSON may spell and UTF-8 may not, is kept too.
    return json.dumps({"args": args, "kwargs": kwargs}, default=str).encode()


def _short(message_id: str) -> str:
    """The message's id as a key can hold it: whoever sent the message has chosen it."""
    if len(message_id) <= 100 and message_id.isprintable():
        return message_id
    return sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()


def quarantine(
    session: Session,
    *,
    message_id: str,
    kind: str | None,
    body: bytes,
    reason: str,
    headers: dict[str, Any] | None = None,
) -> None:
    """Keep a message that could not be accepted, once, however often it is delivered.

    Another message of the same id is kept too, under an id of its own. Any text and any headers can be kept: what
    PostgreSQL cannot hold of them is left out.
    """
    values = {
        "kind": kind and clean_text(kind)[:200],
        "body": body,
        "reason": clean_text(reason),
        "headers": cleaned(headers or {}),
    }
    message_id = clean_text(message_id)[:200]
    for key in (message_id, f"{message_id[:100]}:{sha256(body).hexdigest()}"):
        session.execute(
            insert(Quarantined).values(message_id=key, **values).on_conflict_do_nothing(index_elements=["message_id"])
        )
        if session.scalar(select(Quarantined.body == body).where(Quarantined.message_id == key)):
            return


class Inbound(Task):  # type: ignore[type-arg]
    """The shell of every kind of request. Acknowledged late: a message leaves the broker when PostgreSQL has it."""

    abstract = True
    ignore_result = True
    acks_late = True
    reject_on_worker_lost = True
    typing = False
    Request = "tasks.engine.quiet_request:QuietRequest"

    def __call__(self, /, *args: Any, **kwargs: Any) -> dict[str, int]:
        with structlog.contextvars.bound_contextvars(task=self.name, message=self.request.id):
            message_id, ports = str(self.request.id), current()
            try:
                try:
                    return accept(self.name, args, kwargs, message_id=message_id, ports=ports)
                except Exception as error:
                    if isinstance(error, DBAPIError) and is_outage(error):
                        raise
                    return keep(self.name, args, kwargs, error, message_id=message_id, ports=ports)
            except DBAPIError as error:
                log.warning(
                    "postgresql.unavailable", reason=outage_reason(error) if is_outage(error) else describe(error)
                )
                sleep(PAUSE)
                raise Reject("it could not be stored", requeue=True) from None


def _shell(kind: str) -> None:
    @shared_task(name=kind, base=Inbound)
    def enter(*_args: Any, **_kwargs: Any) -> None:
        """Stored by `Inbound.__call__`; handled by `requests.handle`."""


for _kind in KINDS:
    _shell(_kind)
