"""The ways in, used well and badly: a request becomes a row, all else is kept with its reason or is a tick (W37)."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers, send_task
from tests.support.servers.processes import Processes, Running, eventually, measured

#: In every bad message; must never be seen in a log.
CANARY = "kanarienvogel"
KIND = "statements.send"


@pytest.fixture
def worker(processes: Processes, database: Database) -> Running:
    customers(database, 3)
    return processes.worker(concurrency=1)


def goes_on_working(outcome: Outcome, processes: Processes, worker: Running, pids: list[int]) -> None:
    """A good request, sent last, is understood by the same processes as before."""
    key = str(uuid4())
    send_task(processes, (KIND, {"kwargs": {"account": "kunde-1", "dedupe_key": key}}))
    eventually(
        lambda: outcome.query("SELECT id FROM tenure.job_requests WHERE dedupe_key = :key", key=key),
        "the worker takes a good request after the bad ones",
    )
    assert worker.alive()
    assert [worker.pid, *worker.children()] == pids, "a process died of a message"
    assert CANARY not in worker.all_text()
    assert "Traceback" not in worker.all_text()


def test_a_request_in_sql_is_handled_within_a_moment(
    processes: Processes, database: Database, outcome: Outcome, worker: Running
) -> None:
    processes.relay()
    ask = "SELECT tenure.request('emails.send_account_set_up', '{\"account\": \"kunde-1\"}')"
    for _ in range(50):
        made = outcome.one(ask)
        eventually(
            lambda made=made: outcome.query(
                "SELECT FROM tenure.job_requests WHERE id = :id AND state = 'done'", id=made
            ),
            "the request is handled",
        )
    seconds = [
        float(row.seconds)
        for row in outcome.query(
            "SELECT extract(epoch FROM finished_at - created_at) AS seconds FROM tenure.job_requests"
        )
    ]
    centiles = quantiles(seconds, n=100)
    measured(f"from request to effect over {len(seconds)}: p50 {centiles[49]:.3f} s, p99 {centiles[98]:.3f} s")
    assert centiles[49] < 5
    assert max(seconds) < 20


def test_a_plain_celery_client_is_understood(processes: Processes, outcome: Outcome, worker: Running) -> None:
    processes.relay()
    call = (KIND, {"kwargs": {"account": "kunde-2"}, "task_id": "5ca1ab1e-0000-4000-8000-000000000000"})
    send_task(processes, call, call)
    outcome.await_statements(1)
    outcome.is_whole(1)
    assert outcome.states("job_requests") == {"done": 1}
    assert outcome.query("SELECT FROM tenure.quarantine") == []


@dataclass(frozen=True)
class Message:
    """A message as kombu lays it into the list of a queue; a test spoils what it is about."""

    task: str | None = KIND
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    embed: Any = field(default_factory=dict)
    body: bytes | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    encoding: str = "utf-8"

    def raw(self) -> bytes:
        body = json.dumps([self.args, self.kwargs, self.embed]).encode() if self.body is None else self.body
        id_ = str(uuid4())
        headers = {"task": self.task, "id": id_, "lang": "py", "argsrepr": CANARY, "kwargsrepr": CANARY}
        return json.dumps(
            {
                "body": base64.b64encode(body).decode(),
                "content-encoding": self.encoding,
                "content-type": self.content_type,
                "headers": {name: value for name, value in (headers | self.headers).items() if value != "-"},
                "properties": {
                    "correlation_id": id_,
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": "celery"},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid4()),
                }
                | self.properties,
            }
        ).encode()


def protocol_1(task: str, kwargs: dict[str, Any]) -> bytes:
    body = json.dumps({"task": task, "id": str(uuid4()), "args": [], "kwargs": kwargs, "retries": 0}).encode()
    return Message(body=body, headers=dict.fromkeys(("task", "id", "lang", "argsrepr", "kwargsrepr"), "-")).raw()


def task(name: str | None = KIND, /, **parts: Any) -> Callable[[], bytes]:
    return Message(name, **parts).raw


def asks(headers: dict[str, Any] | None = None, **kwargs: Any) -> Callable[[], bytes]:
    return Message(kwargs={"account": "kunde-1"} | kwargs, headers=headers or {}).raw


#: Kept in quarantine, with these words in the reason. The first are text as a client may send it, the last lie raw in
#: the list of the queue.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "unknown argument": (asks(**{CANARY: 1}), "has no argument"),
    "missing argument": (task(), "needs the argument"),
    "unknown account": (asks(account=CANARY), "is not known"),
    "number for text": (asks(account=5), "must be the ref"),
    "object for text": (asks(account={CANARY: [CANARY]}), "must be the ref"),
    "a megabyte": (asks(account=CANARY * 80_000), "must be the ref"),
    "NUL": (asks(account=CANARY + "\0"), ""),
    "half a surrogate pair": (asks(account=CANARY + "\ud800"), ""),
    "not a number": (asks(account=float("nan")), ""),
    "unknown version": (asks(version=CANARY), "version"),
    "positional": (task(args=["kunde-1", CANARY]), "keyword arguments only"),
    "dedupe key too long": (asks(dedupe_key=CANARY * 50), "dedupe key"),
    "dedupe key no text": (asks(dedupe_key=[CANARY]), "dedupe key"),
    "too deep": (task(body=b'[[],{"account":' + b"[" * 50_000 + b"]" * 50_000 + b"},{}]"), "nested too deeply"),
    "unknown task": (task(f"{CANARY}.run", kwargs={"name": CANARY}), "There is no request"),
    "no task": (task(headers={"task": "-"}), "names no task"),
    "null task": (task(None), "names no task"),
    "a list for a task": (task(headers={"task": [CANARY]}), "There is no request"),
    "an object for an id": (asks({"id": {CANARY: 1}}), "id must be text"),
    "a list for an id": (asks({"id": [CANARY]}), "id must be text"),
    "a long id": (asks({"id": CANARY * 1000}), "id must be text"),
    "no id": (asks({"id": "-"}), "id must be text"),
    "pickle": (
        task(body=pickle.dumps([[CANARY], {}, {}]), content_type="application/x-python-serialize", encoding="binary"),
        "Only JSON",
    ),
    "YAML": (task(body=b"- kanarienvogel", content_type="application/x-yaml"), "Only JSON"),
    "a content type of its own": (task(content_type=CANARY), "Only JSON"),
    "not JSON": (task(body=CANARY.encode()), "Only JSON"),
    "not UTF-8": (task(body=b"\xff\xfe" + CANARY.encode()), "Only JSON"),
    "an empty body": (task(body=b""), ""),
    "a string for a body": (task(body=b'"args kanarienvogel"'), "The body is not"),
    "an object for a body": (task(body=b'{"kanarienvogel": 1}'), ""),
    "a pair for a body": (task(body=b'[[], {"account": "kunde-1"}]'), "The body is not"),
    "a string for kwargs": (task(kwargs=CANARY), "arguments must be"),
    "a list for kwargs": (task(kwargs=[CANARY]), "arguments must be"),
    "an object for args": (task(args={CANARY: 1}), "arguments must be"),
    "a string for args": (task(args=CANARY), "arguments must be"),
    "a string for embed": (task(embed=CANARY), "arguments must be"),
    "an eta far in the future": (asks({"eta": "2999-01-01T00:00:00+00:00"}), "as soon as it can be"),
    "an eta that is none": (asks({"eta": CANARY}), "as soon as it can be"),
    "expired": (asks({"expires": "2020-01-01T00:00:00"}), "expired"),
    "an expiry that is none": (asks({"expires": CANARY}), "ISO 8601"),
    "callbacks": (task(kwargs={"account": "kunde-1"}, embed={"callbacks": [{"task": CANARY}]}), "one request"),
    "a chord": (task(kwargs={"account": "kunde-1"}, embed={"chord": {"task": CANARY}}), "one request"),
    "a bad compression": (asks({"compression": CANARY}), "cannot be unpacked"),
    "what is none of its compression": (asks({"compression": "gzip"}), "cannot be unpacked"),
    "too much when unpacked": (
        task(body=zlib.compress(b" " * (400 << 20) + b"[[], {}, {}]"), headers={"compression": "gzip"}),
        "more than 1,048,576 bytes",
    ),
    "a codec as encoding": (task(body=zlib.compress(b"[[], {}, {}]"), encoding="zlib"), "Only JSON in UTF-8"),
    "an escaped NUL in a header": (task(f"{CANARY}.run", headers={"note": "C:\\u0000"}), "There is no request"),
    "half a surrogate pair in a header": (task(f"{CANARY}.run", headers={"note": "\ud800"}), "There is no request"),
    "a type of Celery's in a header": (
        task(headers={"note": {"__type__": "datetime", "__value__": CANARY}}),
        "in the envelope of a Celery message",
    ),
    "a datetime": (asks(at={"__type__": "datetime", "__value__": "1999-01-01"}), "is of the type datetime"),
    "protocol 1, unknown task": (lambda: protocol_1(f"{CANARY}.run", {"name": CANARY}), "There is no request"),
    "protocol 1, wrong arguments": (lambda: protocol_1(KIND, {CANARY: 1}), "has no argument"),
    "headers no object": (lambda: task()().replace(b'"headers": {', b'"headers": 1, "kanarienvogel": {'), "Only JSON"),
    "body not in base64": (lambda: task()().replace(b'"body": "', b'"body": "\xc3\xa9'), "Only JSON"),
    "raw text": (CANARY.encode, "Only JSON"),
    "raw bytes": (lambda: b"\xff\x00" + CANARY.encode(), "Only JSON"),
    "nothing": (lambda: b"", "Only JSON"),
    "raw JSON string": (lambda: b'"kanarienvogel"', "Only JSON"),
    "raw number": (lambda: b"17", "Only JSON"),
    "raw null": (lambda: b"null", "Only JSON"),
    "raw empty list": (lambda: b"[]", "Only JSON"),
    "raw empty object": (lambda: b"{}", "Only JSON"),
    "raw depth": (lambda: b"[" * 100_000, "Only JSON"),
}


def test_what_is_no_request_is_kept_with_its_reason_and_harms_nobody(
    processes: Processes, outcome: Outcome, worker: Running, broker: redis.Redis
) -> None:
    pids = [worker.pid, *worker.children()]
    for number, (case, (make, words)) in enumerate(REFUSED.items(), 1):
        broker.lpush("celery", make())

        def kept(number: int = number, case: str = case) -> bool:
            assert worker.alive(), f"the worker died of {case}"
            return bool(outcome.one("SELECT count(*) = :number FROM tenure.quarantine", number=number))

        eventually(kept, f"{case} is in quarantine", seconds=20)
        reason = outcome.one("SELECT reason FROM tenure.quarantine ORDER BY id DESC LIMIT 1")
        assert words in reason, case
    assert outcome.states("job_requests") == {}
    assert broker.llen("celery") == 0
    assert broker.hlen("unacked") == 0
    goes_on_working(outcome, processes, worker, pids)


def test_what_a_client_adds_to_a_request_changes_nothing(
    processes: Processes, outcome: Outcome, worker: Running, broker: redis.Redis
) -> None:
    pids = [worker.pid, *worker.children()]
    added: dict[str, Any] = {
        "shadow": CANARY,
        "timelimit": [0.001, 0.001],
        "expires": "2999-01-01T00:00:00+00:00",
        "origin": CANARY,
        "root_id": {CANARY: 1},
        "group": CANARY,
        "retries": CANARY,
        "ignore_result": False,
        "stamped_headers": [CANARY],
        "stamps": CANARY,
        "replaced_task_nesting": CANARY,
    }
    broker.lpush("celery", asks(added, dedupe_key="spoiled")())
    broker.lpush("celery", asks(dedupe_key="plain")(), protocol_1(KIND, {"account": "kunde-1", "dedupe_key": "old"}))
    broker.lpush("celery", asks({"id": str(uuid4())}, dedupe_key="untagged")().replace(b'"delivery_tag"', b'"no_tag"'))
    eventually(lambda: outcome.states("job_requests") == {"pending": 4}, "all four requests are rows")
    assert outcome.query("SELECT FROM tenure.quarantine") == []
    goes_on_working(outcome, processes, worker, pids)


def test_a_request_of_any_priority_is_read(processes: Processes, outcome: Outcome, worker: Running) -> None:
    """Plain Celery puts it into one of four lists, and into one of ten if its client is configured so."""
    send_task(
        processes,
        *(
            (KIND, {"kwargs": {"account": "kunde-1", "dedupe_key": f"priority {priority}"}, "priority": priority})
            for priority in range(11)
        ),
    )
    with Celery(broker=processes.addresses["TENURE_BROKER_URL"], set_as_current=False) as client:
        client.conf.broker_transport_options = {"priority_steps": list(range(10))}
        for priority in range(10):
            client.send_task(KIND, kwargs={"account": "kunde-1", "dedupe_key": f"step {priority}"}, priority=priority)
    eventually(lambda: outcome.states("job_requests") == {"pending": 21}, "all requests are rows")


def test_a_command_by_remote_control_is_not_heard(
    processes: Processes, outcome: Outcome, worker: Running, broker: redis.Redis
) -> None:
    """Whoever may write to the broker cannot shut workers down by Celery's own commands."""
    pids = [worker.pid, *worker.children()]
    with Celery(broker=processes.addresses["TENURE_BROKER_URL"], set_as_current=False) as client:
        assert client.control.inspect(timeout=2).ping() is None
        for command in ("shutdown", "pool_restart", "cancel_consumer", "rate_limit"):
            client.control.broadcast(command, arguments={"queue": "celery", "task_name": KIND, "rate_limit": "1/h"})
    goes_on_working(outcome, processes, worker, pids)


def test_a_forged_tick_is_a_tick(
    processes: Processes, database: Database, outcome: Outcome, worker: Running, broker: redis.Redis
) -> None:
    """The name of one task, the arguments of another, on the wrong queue: whatever is due is done, and nothing else."""
    pids = [worker.pid, *worker.children()]
    forged = {"account": CANARY, "account_id": str(uuid4()), "ids": [str(uuid4())]}
    for name in ("sessions.sweep", "work.rescue", "statements.render", "emails.send", "requests.handle"):
        for queue in ("celery", "documents", "sweeps"):
            broker.lpush(queue, Message(name, args=[CANARY, 1], kwargs=forged).raw())
    eventually(lambda: not broker.keys("[cds]*"), "all messages are taken")
    assert outcome.states("statements") == outcome.states("job_requests") == outcome.states("email_messages") == {}
    assert outcome.query("SELECT FROM tenure.quarantine") == []
    goes_on_working(outcome, processes, worker, pids)
