"""A message on the wire: dots at line starts doubled, one closing dot, nothing else changed (RFC 5321, 4.5.2)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.adapters.mail.smtp import dot_stuffed

deterministic = settings(derandomize=True, database=None, deadline=None, max_examples=150)

#: As `EmailMessage.as_bytes` makes them: lines that end in CRLF, the last perhaps not.
line = st.lists(st.sampled_from([b".", b"..", b"a", b"\xc3\xbc", b" ", b"-"]), max_size=5).map(b"".join)
messages = st.tuples(st.lists(line, min_size=1, max_size=8), st.booleans()).map(
    lambda made: b"\r\n".join(made[0]) + (b"\r\n" if made[1] else b"")
)


def received(wire: bytes) -> bytes:
    """What a server keeps, read as the RFC tells it to: line by line to a dot alone, other leading dots taken off."""
    kept: list[bytes] = []
    lines = wire.split(b"\r\n")
    for number, each in enumerate(lines):
        if each == b".":
            # The closing dot: nothing may come after it, or it would be taken for a command.
            assert lines[number + 1 :] == [b""]
            return b"".join(one + b"\r\n" for one in kept)
        kept.append(each.removeprefix(b"."))
    raise AssertionError("the message never ended")


@deterministic
@given(messages)
@example(b".")
@example(b"..\r\n")
@example(b"a\r\n.\r\nb")
@example(b"\r\n.\r\n.\r\n")
@example(b"")
@example(b"\r\n")
def test_what_a_server_keeps_is_what_was_to_be_sent(message: bytes) -> None:
    whole = message if message.endswith(b"\r\n") else message + b"\r\n"
    # An empty message has no line of its own to end.
    assert received(dot_stuffed(message)) == whole


@deterministic
@given(messages)
def test_no_line_of_a_message_can_close_it_or_become_a_command(message: bytes) -> None:
    wire = dot_stuffed(message)
    assert wire.endswith(b"\r\n.\r\n")
    assert (b"\r\n" + wire).count(b"\r\n.\r\n") == 1


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".a\r\n", b"..a\r\n.\r\n"),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n..\r\nQUIT\r\n.\r\n"),
        (b"a\r\n..b\r\n", b"a\r\n...b\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
    ],
)
def test_messages_and_how_they_go_over_the_wire(message: bytes, wire: bytes) -> None:
    assert dot_stuffed(message) == wire
