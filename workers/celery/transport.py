"""Celery's Redis transport, without three ways in which kombu ends a worker.

Anything may lie in the list of a queue: kombu takes each item for its own JSON envelope, and one that is none ends the
worker, again and again after each restart. Here it becomes the body of an envelope, so that it is kept in quarantine as
any message that cannot be read is. The broker may die while messages are in hand. And
it may be full: then the message in hand is kept in memory alone.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import structlog
from kombu.transport import redis, virtual
from redis.exceptions import OutOfMemoryError, ReadOnlyError

log = structlog.get_logger()


class QoS(redis.QoS):
    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that a message is in hand: it has left its list, and is done even if the broker has no room to note it.

        kombu passes the refusal on, and Celery ends the worker, with the message.
        """
        try:
            super().append(message, delivery_tag)
        except OutOfMemoryError as error:
            log.warning("broker.unavailable", reason=str(error).partition(":")[2].strip() or str(error))
            virtual.QoS.append(self, message, delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was not acknowledged, where there is still a connection to give it back by.

        kombu asks for this even when the broker has died and the connection is closed, and ends the worker with an
        AttributeError. What is not given back now comes back by the visibility timeout.
        """
        connection = self.channel.connection
        if connection is not None and connection.client is not None:
            super().restore_unacked_once(stderr)


class Channel(redis.Channel):
    QoS = QoS

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]
        client.set_response_callback("BRPOP", enveloped)
        return client


class Transport(redis.Transport):
    Channel = Channel
    # A broker that is full, or was made a replica, refuses to write. As a lost connection, that is tried again.
    connection_errors = (*redis.Transport.connection_errors, OutOfMemoryError, ReadOnlyError)


def enveloped(response: Any) -> tuple[bytes, bytes] | None:
    """What BRPOP answered, `(queue, item)` or nothing, with an envelope around an item that has none."""
    if not response:
        return None
    queue, item = response
    return (queue, item) if is_envelope(item) else (queue, wrapped(queue, item))


def is_envelope(item: bytes) -> bool:
    """Whether kombu can take the item in hand, and give it back, without stumbling."""
    try:
        envelope = json.loads(item)
        properties = envelope["properties"]
        route = properties["delivery_info"]
        if envelope.get("body"):
            encoding = properties.get("body_encoding")
            if encoding == "base64":
                base64.b64decode(envelope["body"])
            elif encoding is not None:
                return False
        return (
            isinstance(envelope.get("body"), str)
            and isinstance(envelope.get("headers"), dict)
            and all(isinstance(envelope.get(name), str | None) for name in ("content-type", "content-encoding"))
            and all(isinstance(value, str) for value in (properties["delivery_tag"], route["routing_key"]))
            and isinstance(route["exchange"], str | None)
            and isinstance(properties.get("priority"), int | None)
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return False


def wrapped(queue: bytes, item: bytes) -> bytes:
    return json.dumps(
        {
            "body": base64.b64encode(item).decode(),
            "content-type": "application/octet-stream",
            "content-encoding": "binary",
            "headers": {},
            "properties": {
                "body_encoding": "base64",
                "correlation_id": str(uuid4()),
                "delivery_tag": str(uuid4()),
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue.decode()},
                "priority": 0,
            },
        }
    ).encode()
