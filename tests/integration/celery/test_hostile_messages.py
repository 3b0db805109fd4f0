"""Whatever lies in a queue, a worker takes it, keeps it or asks for what it says; nothing is raised (W5, W21) (W36,
W38).
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import resource
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.transport.virtual import Message
from kombu.utils.json import dumps, loads
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.client.requests import KINDS
from workers.celery import consumer
from workers.celery.inspection import examine
from workers.celery.transport import enveloped
from workers.celery.unpacking import MOST_BYTES, MOST_UNPACKED_BYTES

KIND = "statements.send"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": zlib.compress,
    "bzip2": bz2.compress,
    "lzma": lzma.compress,
}


class Hand:
    """The channel of a message: it notes what was done with it."""

    no_ack_consumers: None = None

    def __init__(self) -> None:
        self.done: list[str] = []

    def decode_body(self, body: str, encoding: str | None = None) -> bytes | str:
        return base64.b64decode(body) if encoding == "base64" else body

    def basic_ack(self, *_: object, **__: object) -> None:
        self.done.append("acknowledged")

    def basic_reject(self, *_: object, **__: object) -> None:
        self.done.append("back in the queue")


def received(item: bytes) -> Message:
    """The message as Celery gets it from the list of a queue, by the steps of kombu's transport."""
    answer = enveloped((b"celery", item))
    assert answer is not None
    message = Message(loads(answer[1].decode()), channel=Hand())
    # That the broker notes it as in hand.
    dumps([message._raw, message.delivery_info["exchange"], message.delivery_info["routing_key"]])
    assert message.delivery_info["routing_key"] == "celery"
    assert not message.errors
    return message


def taken(item: bytes) -> tuple[Message, str | None]:
    """The message, and the reason for which it went into quarantine."""
    message = received(item)
    refusal = consumer._examined(message, KINDS)
    if refusal is None:
        json.loads(message.body)
        return message, None
    consumer._keep(message, refusal.kind, refusal.reason)
    return message, refusal.reason


def item(
    body: bytes | None = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    envelope: dict[str, Any] | None = None,
) -> bytes:
    written = json.dumps([[], {"account": "acme"}, {}]).encode() if body is None else body
    return json.dumps(
        {
            "body": base64.b64encode(written).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": KIND, "id": str(uuid4())} | (headers or {}),
            "properties": {
                "body_encoding": "base64",
                "correlation_id": str(uuid4()),
                "delivery_tag": str(uuid4()),
                "delivery_info": {"exchange": "", "routing_key": "celery"},
            }
            | (properties or {}),
        }
        | (envelope or {})
    ).encode()


@pytest.fixture
def quarantine(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The quarantine of this test's database, into which `consumer` puts messages."""

    class Chosen:
        pass

    Chosen.database_url = database_url  # type: ignore[attr-defined]
    monkeypatch.setattr(consumer, "settings", Chosen)
    monkeypatch.setattr(consumer, "PAUSE", 0.0)
    # One connection for all examples.
    monkeypatch.setattr(consumer, "Database", lambda *_, **__: database)
    monkeypatch.setattr(database.engine, "dispose", lambda *_, **__: None)
    yield database
    monkeypatch.undo()


def kept(database: Database) -> list[Any]:
    with database.connection() as connection:
        return list(connection.execute(text("SELECT * FROM tenure.quarantine ORDER BY id")))


#: Text as JSON can spell it: NULs, halves of surrogate pairs, and what looks like an escape and is none.
texts = st.one_of(
    st.text(st.characters(codec=None, categories=None), max_size=20),  # type: ignore[arg-type]
    st.sampled_from(
        ["\\u0000", "C:\\u0000", "\0", "\ud800", "a\udfff", "\\ud800", "", "celery", KIND, "{}", "\x06\x16"]
    ),
)
typed = st.builds(
    lambda kind, value: {"__type__": kind, "__value__": value},
    st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "no-such-type"]),
    st.one_of(
        texts, st.integers(), st.sampled_from(["1999-01-01", "1.5", "NaN", str(UUID(int=5)), "QQ==", "1e999999"])
    ),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, typed)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
names = st.sampled_from(
    [
        "task",
        "id",
        "lang",
        "compression",
        "argsrepr",
        "kwargsrepr",
        "expires",
        "eta",
        "root_id",
        "parent_id",
        "group",
        "retries",
        "timelimit",
        "shadow",
        "origin",
        "stamped_headers",
        "stamps",
        "reply_to",
        "replaced_task_nesting",
        "bytes",
    ]
)
headers = st.dictionaries(st.one_of(names, texts), values, max_size=5)
properties = st.dictionaries(
    st.one_of(
        st.sampled_from(
            [
                "correlation_id",
                "reply_to",
                "delivery_mode",
                "delivery_info",
                "priority",
                "body_encoding",
                "delivery_tag",
                "compression",
            ]
        ),
        texts,
    ),
    values,
    max_size=4,
)
encodings = st.one_of(
    st.sampled_from(
        ["utf-8", "UTF-8", "binary", "utf-16", "zlib", "bz2", "rot13", "idna", "unicode_escape", "hex", ""]
    ),
    values,
)
content_types = st.one_of(
    st.sampled_from(
        ["application/json", "application/x-python-serialize", "application/x-yaml", "application/data", ""]
    ),
    values,
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda value: json.dumps(value).encode(), values),
    st.builds(lambda *parts: json.dumps(parts).encode(), values, values, values),
    st.builds(lambda kwargs: json.dumps([[], kwargs, {}]).encode(), st.dictionaries(texts, values, max_size=4)),
)


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    body = draw(bodies)
    added = draw(headers)
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(COMPRESSIONS)))
        body, added = COMPRESSIONS[name](body), added | {"compression": name}
    parts: dict[str, Any] = {"content-type": draw(content_types), "content-encoding": draw(encodings)}
    if draw(st.integers(0, 9)) == 0:
        parts |= draw(st.dictionaries(st.sampled_from(["body", "headers", "properties"]), values, max_size=2))
    return item(body, added, draw(properties), parts)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.one_of(envelopes(), st.binary(max_size=60), st.builds(lambda value: json.dumps(value).encode(), values)))
def test_any_item_of_a_queue_is_taken_or_kept(quarantine: Database, raw: bytes) -> None:
    before = len(kept(quarantine))
    message, reason = taken(raw)
    if reason is None:
        assert message.headers["task"] in KINDS
        assert set(message.headers) <= {"lang", "task", "id", "argsrepr", "kwargsrepr", "root_id", "parent_id"}
    else:
        assert message.channel.done == ["acknowledged"], reason
        assert "fault of Tenure" not in reason
        assert len(kept(quarantine)) == before + 1
    # Given back and received again, it is the same.
    again = received(dumps(message._raw).encode())
    assert examine(again, KINDS) is None or reason is not None


@pytest.mark.parametrize(
    ("note", "expected"),
    [("C:\\u0000", "C:\\u0000"), ("\ud800", "?"), ("a\0b", "ab"), (float("inf"), "inf"), ({"\0": ["\0"]}, {"": [""]})],
)
def test_headers_are_kept_as_values(quarantine: Database, note: object, expected: object) -> None:
    message, _reason = taken(item(headers={"task": "none.such", "note": note}))
    assert message.channel.done == ["acknowledged"]
    assert kept(quarantine)[0].headers["note"] == expected


def test_two_messages_of_one_id_are_both_kept_and_each_once(quarantine: Database) -> None:
    first, second = (item(body, {"id": "the-same"}) for body in (b"first", b"second"))
    for each in (first, second, second, first):
        taken(each)
    assert sorted(row.body for row in kept(quarantine)) == [b"first", b"second"]


def bomb(compression: str, size: int = 400 << 20) -> bytes:
    """A body that unpacks to `size` bytes of JSON."""
    if compression == "gzip":
        packer: Any = zlib.compressobj(9)
    elif compression == "bzip2":
        packer = bz2.BZ2Compressor()
    else:
        packer = lzma.LZMACompressor(preset=0)
    chunk = b" " * (1 << 20)
    parts = [packer.compress(chunk) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(b"[[], {}, {}]"), packer.flush()])


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
@pytest.mark.parametrize("where", ["headers", "properties"])
def test_what_unpacks_to_too_much_is_not_unpacked(quarantine: Database, compression: str, where: str) -> None:
    packed = bomb(compression, (64 if compression == "bzip2" else 400) << 20)
    assert len(packed) < MOST_BYTES / 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _message, reason = taken(item(packed, **{where: {"compression": compression}}))
    assert reason is not None
    assert f"more than {MOST_UNPACKED_BYTES:,} bytes" in reason
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 64 << 10, "kilobytes"
    assert kept(quarantine)[0].body == packed
    assert kept(quarantine)[0].headers["compression"] == compression


def test_a_codec_of_pythons_is_no_encoding(quarantine: Database) -> None:
    _message, reason = taken(item(zlib.compress(b"[[], {}, {}]"), envelope={"content-encoding": "zlib"}))
    assert reason == 'Only JSON in UTF-8 is read here, and the message is in "zlib".'


def test_of_a_message_that_is_too_long_the_beginning_is_kept(quarantine: Database) -> None:
    _message, reason = taken(item(b"x" * (3 << 20)))
    row = kept(quarantine)[0]
    assert reason is not None
    assert f"{row.headers['bytes']:,} bytes" in reason
    assert len(row.body) == 1 << 16
    assert len(row.headers["sha256"]) == 64


@pytest.mark.parametrize("levels", [65, 3_000, 100_000])
def test_a_body_that_is_nested_too_deeply_is_refused_for_that(quarantine: Database, levels: int) -> None:
    _message, reason = taken(item(b'[[],{"account":' + b"[" * levels + b"]" * levels + b"},{}]"))
    assert reason is not None
    assert "nested too deeply" in reason


def test_dates_and_uuids_of_a_client_are_the_text_that_requests_take() -> None:
    """As Celery's own serializer writes them."""
    kwargs = {"until": date(1999, 3, 1), "message": UUID(int=7)}
    message = received(item(dumps([[], kwargs, {}]).encode()))
    assert examine(message, KINDS) is None
    assert json.loads(message.body)[1] == {"until": "1999-03-01", "message": str(UUID(int=7))}


@pytest.mark.parametrize("value", [Decimal("1.5"), datetime(1999, 3, 1, tzinfo=UTC), b"\xff", [Decimal(1)]])
def test_of_other_types_of_a_client_the_reason_names_argument_and_type(quarantine: Database, value: object) -> None:
    _message, reason = taken(item(dumps([[], {"days": value}, {}]).encode()))
    assert reason is not None
    assert reason.startswith('The argument "days" is of the type ')
    assert "which no request takes" in reason


def test_a_value_that_is_none_of_its_type_is_said_to_be_so(quarantine: Database) -> None:
    _message, reason = taken(item(b'[[], {"until": {"__type__": "date", "__value__": "soon"}}, {}]'))
    assert reason is not None
    assert "holds a value that cannot be read" in reason
