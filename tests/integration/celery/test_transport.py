"""What kombu's Redis transport does when the broker dies must not end a worker."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import redis
from kombu import Connection, Queue

from workers.celery.transport import Transport


def test_a_channel_with_messages_in_hand_is_closed_though_its_connection_is_gone(servers: Mapping[str, str]) -> None:
    with Connection(servers["TENURE_BROKER_URL"], transport=Transport) as connection:
        channel = connection.default_channel
        queue = Queue("in-hand", channel=channel)
        queue.declare()
        connection.Producer(channel).publish({"look": "now"}, routing_key="in-hand", declare=[queue])
        assert queue.get(no_ack=False) is not None
        connection.transport.client = None
        channel.close()
    with Connection(servers["TENURE_BROKER_URL"]) as connection:
        connection.default_channel.client.delete("in-hand", "unacked", "unacked_index", "_kombu.binding.in-hand")


def test_a_message_in_hand_is_not_lost_to_a_broker_that_is_full(servers: Mapping[str, str]) -> None:
    """It has left its list; that nobody else can be told of it must not end the worker that has it."""
    broker = redis.Redis.from_url(servers["TENURE_BROKER_URL"])
    with Connection(servers["TENURE_BROKER_URL"], transport=Transport) as connection:
        channel = connection.default_channel
        queue = Queue("full", channel=channel)
        queue.declare()
        connection.Producer(channel).publish({"look": "now"}, routing_key="full", declare=[queue])
        broker.config_set("maxmemory", 1)
        try:
            message = queue.get(no_ack=False)
            assert message is not None
            assert message.payload == {"look": "now"}
            assert not broker.exists("unacked")
            message.ack()
            with pytest.raises(connection.connection_errors):
                connection.Producer(channel).publish({"look": "now"}, routing_key="full")
        finally:
            broker.config_set("maxmemory", 0)
        assert queue.get(no_ack=False) is None
    broker.delete("full", "unacked", "unacked_index", "_kombu.binding.full")
    broker.close()
