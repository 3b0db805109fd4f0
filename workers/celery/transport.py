"""Celery's Redis transport, without the ways in which a broker or a message ends, blinds or blocks a worker.

**Messages.** Anything may lie in the list of a queue. kombu takes each item for an envelope of its own, unpacks it as
the envelope says, and gives it back to the queue that the envelope names. Here each item gets a new envelope: of the
old one only body and headers are kept, and an item without an envelope becomes the body.

**Answers.** A server that is demoted, full, loading, busy or has another password refuses commands. kombu takes most
refusals for a fault of the caller, which ends the worker; and a message whose acknowledgement was refused counts as in
hand for ever, so that the worker takes no other. Here every refusal is a lost connection, which Celery opens anew, and
whether a message is in hand does not depend on an answer. A message that comes twice for that finds its row (W5).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from queue import Empty
from typing import Any
from uuid import uuid4

import structlog
from kombu.transport import redis, virtual
from kombu.utils.json import dumps, loads
from redis.exceptions import RedisError

from workers.celery.liveness import LIVENESS
from workers.celery.routing import INBOUND, QUEUES
from workers.celery.unpacking import MOST_BYTES, is_deeper

log = structlog.get_logger()

#: The content type of an item that has no envelope.
RAW = "application/x-tenure-raw"
#: Of an item that is too long, the bytes that are kept.
BEGINNING_BYTES = 1 << 16

#: Messages that have left their list, are noted nowhere in the broker, and could not be given back yet: the queue and
#: the item. It outlives the channel that received them.
_owed: list[tuple[str, str]] = []


class QoS(redis.QoS):
    # What kombu has and its type hints have not.
    channel: Any
    _delivered: Any
    _flush: Callable[[], None]
    _remove_from_indices: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Tags of messages in hand that the broker has not noted.
        self._unnoted: set[str] = set()
        #: Tags of messages that are done, and that the broker may still hold as in hand.
        self._unacknowledged: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that a message is in hand. It has left its list: it is done even if the broker cannot note it."""
        try:
            super().append(message, delivery_tag)
        except (RedisError, OSError) as error:
            _warn(error)
            self._unnoted.add(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """The message is no longer in hand, whether or not the broker can note it now."""
        virtual.QoS.ack(self, delivery_tag)
        self._unnoted.discard(delivery_tag)
        self._acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self._give_back(delivery_tag, leftmost=True)
        else:
            self._acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        self._unnoted.discard(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        for tag in list(self._delivered):
            self._give_back(tag, leftmost=False)
        self._delivered.clear()
        self._unnoted.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was not acknowledged; without a connection, as soon as there is one.

        kombu asks for this even when the broker has died and the connection is closed, and ends the worker with an
        AttributeError. What the broker has noted comes back by the visibility timeout.
        """
        connection = self.channel.connection
        if connection is not None and connection.client is not None:
            super().restore_unacked_once(stderr)
        else:
            self._flush()
            _owed.extend(_item(self._delivered[tag]) for tag in self._unnoted if tag in self._delivered)
            self._unnoted.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> Any:
        """Called every second by a worker that consumes: settle first what an outage left open."""
        with self.channel.conn_or_acquire() as client:
            while _owed:
                client.lpush(*_owed[-1])
                _owed.pop()
            while self._unacknowledged:
                tag = next(iter(self._unacknowledged))
                self._remove_from_indices(tag, client.pipeline()).execute()
                self._unacknowledged.discard(tag)
        return super().restore_visible(*args, **kwargs)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give back a message that the broker has noted, whatever the note is."""

        def give_back(pipe: Any) -> None:
            note = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if note:
                (pipe.lpush if leftmost else pipe.rpush)(*_noted(note))

        with self.channel.conn_or_acquire(client) as connected:
            connected.transaction(give_back, self.unacked_key)

    def _acknowledge(self, delivery_tag: str) -> None:
        try:
            self._remove_from_indices(delivery_tag).execute()
        except (RedisError, OSError) as error:
            _warn(error)
            self._unacknowledged.add(delivery_tag)

    def _give_back(self, delivery_tag: str, *, leftmost: bool) -> None:
        if delivery_tag in self._unnoted:
            message = self._delivered.get(delivery_tag)
            if message is not None:
                _owed.append(_item(message))
            return
        try:
            self.restore_by_tag(delivery_tag, leftmost=leftmost)
        except (RedisError, OSError) as error:
            # It stays noted, and comes back by the visibility timeout.
            _warn(error)


def _item(message: Any) -> tuple[str, str]:
    return str(message.delivery_info["routing_key"]), dumps(message._raw)


def _noted(note: bytes) -> tuple[str, str | bytes]:
    """The queue and the item of a note; one that cannot be read goes to the queue of requests, and is refused there."""
    try:
        item, _exchange, queue = json.loads(note)
        if isinstance(item, dict) and queue in QUEUES and not is_deeper(item):
            return queue, json.dumps(item)
    except (ValueError, TypeError, RecursionError):
        pass
    return INBOUND, note


def reason(error: Exception) -> str:
    """What the broker answered, in a line, without the command that it answered."""
    lines = str(error).rpartition("caused error:")[2].strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _warn(error: Exception) -> None:
    log.warning("broker.unavailable", reason=reason(error))


class Channel(redis.Channel):
    QoS = QoS

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]
        client.set_response_callback("BRPOP", enveloped)
        return client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            took = super()._brpop_read(**options)  # type: ignore[misc]
        except Empty:
            LIVENESS.broker_answered()
            raise
        LIVENESS.broker_answered()
        return took


class Transport(redis.Transport):
    Channel = Channel
    #: Celery opens the connection anew for these. Of a refusal nobody can say how long it will last.
    connection_errors = (*redis.Transport.connection_errors, RedisError)


def enveloped(response: Any) -> tuple[bytes, bytes] | None:
    """What BRPOP answered, `(queue, item)` or nothing, with a new envelope around what the item holds."""
    if not response:
        return None
    key, item = response
    queue = key.partition(redis.Channel.sep.encode())[0]
    return key, _new_envelope(queue.decode(errors="replace"), item)


def _new_envelope(queue: str, item: bytes) -> bytes:
    if len(item) > MOST_BYTES:
        headers = {"bytes": len(item), "sha256": sha256(item).hexdigest()}
        return _envelope(queue, item[:BEGINNING_BYTES], headers=headers, content_type=RAW)
    try:
        return _copied(queue, json.loads(item.decode()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError):
        return _envelope(queue, item, content_type=RAW)


def _copied(queue: str, envelope: Any) -> bytes:
    """The body and headers of an envelope in a new one. Raises what its contents cause."""
    properties, headers, body = envelope["properties"], envelope["headers"], envelope["body"]
    content_type, encoding = envelope.get("content-type"), envelope.get("content-encoding")
    if not (
        isinstance(properties, dict)
        and isinstance(headers, dict)
        and isinstance(body, str)
        and isinstance(content_type, str | None)
        and isinstance(encoding, str | None)
        and not is_deeper(headers)
    ):
        raise TypeError("this is no envelope")
    match properties.get("body_encoding"):
        case "base64":
            decoded = base64.b64decode(body)
        case None:
            decoded = body.encode("utf-8", "surrogatepass")
        case _:
            raise ValueError("the body's encoding is not known")
    # kombu would unpack what says that it is compressed, however much that is.
    compression = headers.pop("compression", None) or properties.get("compression")
    copy = _envelope(
        queue,
        decoded,
        headers=headers,
        content_type=content_type,
        encoding=encoding,
        compression=compression,
        correlation_id=properties.get("correlation_id"),
    )
    loads(copy)
    return copy


def _envelope(
    queue: str,
    body: bytes,
    *,
    headers: dict[str, Any] | None = None,
    content_type: str | None = None,
    encoding: str | None = None,
    compression: Any = None,
    correlation_id: Any = None,
) -> bytes:
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": encoding,
            "headers": headers or {},
            "properties": {
                "body_encoding": "base64",
                "compression": compression if isinstance(compression, str | None) else str(type(compression).__name__),
                "correlation_id": correlation_id if isinstance(correlation_id, str) else str(uuid4()),
                # A tag that somebody else chose could be that of another message.
                "delivery_tag": str(uuid4()),
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
            },
        }
    ).encode()
