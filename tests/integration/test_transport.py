"""What kombu's Redis transport does when the broker dies must not end a worker."""

from __future__ import annotations

from collections.abc import Mapping

from kombu import Connection, Queue

from workers.transport import Transport


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
