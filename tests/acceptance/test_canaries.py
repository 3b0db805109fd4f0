"""Personal data are in PostgreSQL, in documents and in the mail, and nowhere else (W12, W14, W21)."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Iterator, Mapping

import pytest
import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, send_task
from tests.support.servers.processes import Processes, eventually
from tests.support.time.deadlines import deadline

#: Each in a place of its own, so that a leak names its source.
CANARIES = {
    "account": "Zaunkönig",
    "street": "Rotkehlchenweg",
    "contact": "Wiedehopf",
    "address": "stieglitz",
    "line": "Nachtigall",
    "argument": "Mauersegler",
    "task": "eisvogel",
    "key": "Goldammer",
    "amount": "7654321",
    "secret": "Neuntöter",
}

SEED = text("""
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, address, currency, time_zone, period_start)
        SELECT 'vogel-' || n, 'Zaunkönig ' || n, ARRAY['Rotkehlchenweg ' || n], 'EUR', 'UTC',
               (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date
          FROM generate_series(1, 20) AS n
        RETURNING id, ref, period_start
    ), contacts AS (
        INSERT INTO tenure.contacts (account_id, name, email, receives_statements)
        SELECT id, 'Wiedehopf ' || ref,
               'stieglitz-' || ref || CASE ref WHEN 'vogel-3' THEN ' at example' ELSE '@customer.example' END,
               ref <> 'vogel-4'
          FROM made
    ), sessions AS (
        INSERT INTO tenure.sessions (account_id, secret_sha256, user_agent) SELECT id, sha256(''), 'Neuntöter' FROM made
    )
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, 'charge', 'EUR', 7654321, 'Nachtigall', period_start::timestamptz + interval '3 days' FROM made""")


class Monitor(threading.Thread):
    """Every command that the broker gets, and so every message and every event, as it goes over the wire."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(daemon=True)
        self.heard: list[str] = []
        self._client = client
        self._over = threading.Event()
        self._listening = threading.Event()

    def run(self) -> None:
        with self._client.monitor() as monitor:
            self._listening.set()
            while not self._over.is_set():
                self.heard.append(str(monitor.next_command()["command"]))

    def __enter__(self) -> Monitor:
        self.start()
        assert self._listening.wait(deadline(10))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._client.ping()
        self.join(deadline(10))


@pytest.fixture
def monitor(broker: redis.Redis) -> Iterator[Monitor]:
    with Monitor(broker) as made:
        yield made


def flower_says(environment: dict[str, str], path: str) -> str:
    secret = f"{environment['TENURE_FLOWER_USER']}:{environment['TENURE_FLOWER_PASSWORD']}".encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{environment['TENURE_FLOWER_PORT']}{path}",
        headers={"Authorization": f"Basic {base64.b64encode(secret).decode()}"},
    )
    with urllib.request.urlopen(request, timeout=deadline(20)) as answer:  # noqa: S310 - our own Flower
        return str(answer.read().decode())


def metrics_say(environment: Mapping[str, str]) -> str:
    address = f"http://127.0.0.1:{environment['TENURE_METRICS_PORT']}/metrics"
    with urllib.request.urlopen(address, timeout=deadline(20)) as answer:
        return str(answer.read().decode())


def leaks(said: str) -> dict[str, str]:
    """Which canaries are there, as they are or as JSON or Python would write them, each with what is around it."""
    readable = said + "\n" + said.encode().decode("unicode_escape", "ignore")
    found = {}
    for source, canary in CANARIES.items():
        for spelling in (canary, json.dumps(canary)[1:-1], repr(canary.encode())[2:-1]):
            at = readable.find(spelling)
            if at >= 0:
                found[source] = readable[max(0, at - 150) : at + 100]
    return found


def decoded(commands: list[str]) -> str:
    """With the bodies of messages, which kombu sends in base64, beside them."""
    bodies = []
    for command in commands:
        for part in command.replace("\\", "").split('"'):
            if len(part) > 15:
                try:
                    bodies.append(base64.b64decode(part, validate=True).decode("utf-8", "replace"))
                except ValueError:
                    continue
    return "\n".join([*commands, *bodies])


def test_personal_data_are_in_no_log_no_message_and_not_in_flower(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis, monitor: Monitor
) -> None:
    with database.connection() as connection:
        connection.execute(SEED)
    flower = processes.flower()
    worker = processes.worker()
    metrics = processes.metrics()
    running = [flower, metrics, worker, processes.relay(), processes.beat()]
    environment = processes.environment()

    with database.connection() as connection:
        for ref in ("vogel-1", "vogel-2"):
            connection.execute(text(f"""SELECT tenure.request('sessions.revoke', '{{"account": "{ref}"}}')"""))
        connection.execute(text("""SELECT tenure.request('emails.send_account_set_up', '{"account": "vogel-5"}')"""))
    eventually(lambda: outcome.statements_done() == 19 and outcome.quiet(), "nineteen statements are done")
    assert outcome.states("statements") == {"done": 19, "failed": 1}
    assert outcome.states("email_messages")["failed"] == 1
    sent = decoded(monitor.heard)
    assert "statements.render" in sent
    assert "task-succeeded" in sent
    assert leaks(sent) == {}, "in the broker, from ourselves"

    # What a client sends is in its own message, and nowhere else.
    good = {"account": "vogel-6"}
    send_task(
        processes,
        ("statements.send", {"kwargs": good}),
        ("statements.send", {"kwargs": good | {"Goldammer": "Mauersegler"}}),
        ("statements.send", {"kwargs": {"account": "Mauersegler"}, "shadow": "eisvogel"}),
        ("statements.send", {"args": ["Mauersegler"]}),
        ("statements.send", {"kwargs": good, "countdown": 3600, "headers": {"Goldammer": "Mauersegler"}}),
        ("eisvogel.fly", {"kwargs": {"name": "Mauersegler"}}),
        ("statements.render", {"kwargs": {"name": "Mauersegler"}}),
    )
    eventually(lambda: outcome.one("SELECT count(*) FROM tenure.quarantine") == 5, "five messages are in quarantine")
    eventually(lambda: outcome.states("job_requests") == {"done": 4}, "the good request is done")
    eventually(outcome.quiet, "all is quiet")

    heard = decoded(monitor.heard)
    assert {"argument", "task", "key"} <= leaks(heard).keys(), "the monitor hears what clients send"

    tasks = eventually(lambda: json.loads(flower_says(environment, "/api/tasks?limit=1000")), "Flower knows tasks")
    assert {"statements.render", "emails.send", "requests.handle", "statements.send"} <= {
        task["name"] for task in tasks.values()
    }
    for path in ("/api/tasks?limit=1000", "/api/workers?refresh=1", "/tasks", "/workers", "/broker"):
        assert leaks(flower_says(environment, path)) == {}, f"Flower's {path}"
    for id_ in tasks:
        assert leaks(flower_says(environment, f"/api/task/info/{id_}")) == {}, "Flower's page of a task"
    figures = metrics_say(metrics.environment)
    assert 'tenure_done_total{outcome="rendered",task="statements.render"} 19.0' in figures
    assert leaks(figures) == {}, "in a metric"
    events = [command for command in monitor.heard if "celeryev" in command]
    assert events
    assert leaks(decoded(events)) == {}, "in an event"
    for process in running:
        assert process.alive(), process.name
        assert leaks(process.all_text()) == {}, process.name
        assert "Traceback" not in process.all_text(), process.name
