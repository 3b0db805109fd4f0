"""Tasks, routes and timetable name the same things, and importing them costs what it should (W30)."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from scheduler.timetable import TIMETABLE
from tasks.client.requests import KINDS
from tests.support.time.deadlines import deadline
from workers.celery.routing import INBOUND, QUEUES, ROUTES

#: No server is there, and none is needed: importing the app connects to nothing.
NOWHERE = {
    "TENURE_MODE": "local",
    "TENURE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "TENURE_BROKER_URL": "redis://127.0.0.1:1/0",
    "TENURE_S3_ENDPOINT": "http://127.0.0.1:1",
    "TENURE_S3_ACCESS_KEY": "-",
    "TENURE_S3_SECRET_KEY": "-",
    "TENURE_MAIL_URL": "smtp://127.0.0.1:1",
    "TENURE_MAIL_FROM": "billing@company.example",
    "TENURE_KEY_ENCRYPTION_KEYS": base64.b64encode(bytes(32)).decode(),
    "TENURE_CERTIFICATE_KEYS": base64.b64encode(bytes(32)).decode(),
}

REGISTERED = """
import inspect, json
from workers.app import app
app.loader.import_default_modules()
app.finalize()
from tasks.engine.task import Tick
print(json.dumps({
    name: {"tick": isinstance(task, Tick), "parameters": list(inspect.signature(task.run).parameters),
           "soft": task.soft_time_limit or app.conf.task_soft_time_limit,
           "hard": task.time_limit or app.conf.task_time_limit}
    for name, task in app.tasks.items() if not name.startswith("celery.")
}))
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env=NOWHERE, capture_output=True, text=True, check=False, timeout=deadline(60)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def registered() -> dict[str, dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = json.loads(run(REGISTERED))
    return tasks


def test_every_task_is_routed_and_every_route_names_a_task() -> None:
    assert set(ROUTES) == set(registered())


def test_every_route_leads_to_a_queue_and_every_queue_has_a_purpose() -> None:
    assert set(ROUTES.values()) == set(QUEUES)
    assert len(set(QUEUES)) == len(QUEUES)


def test_requests_come_in_where_any_celery_client_publishes() -> None:
    assert {task for task, queue in ROUTES.items() if queue == INBOUND} == set(KINDS)


def test_every_timetable_entry_names_a_task_without_arguments() -> None:
    for entry in TIMETABLE:
        task = registered()[entry.task]
        assert task["tick"], f"{entry.task} is not a tick"
        assert task["parameters"] == [], f"{entry.task} takes arguments, and a tick carries none"
        assert entry.every.total_seconds() > 0
        assert entry.reason.strip()
    assert len({entry.task for entry in TIMETABLE}) == len(TIMETABLE)


def test_every_tick_is_in_the_timetable() -> None:
    assert {name for name, task in registered().items() if task["tick"]} == {entry.task for entry in TIMETABLE}


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_names_are_area_and_verb_and_every_task_ends(name: str) -> None:
    area, _, verb = name.partition(".")
    assert area.isidentifier()
    assert verb.isidentifier()
    task = registered()[name]
    assert 0 < task["soft"] < task["hard"]


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("tasks.client.requests", ["celery", "kombu", "redis", "boto3", "typst", "jinja2", "workers"]),
        ("workers.wiring.bootstrap", ["stripe", "requests"]),
        (
            "workers.commands",
            ["sqlalchemy", "celery", "kombu", "boto3", "psycopg", "redis", "typst", "jinja2", "rich"],
        ),
        (
            "tasks.client.sessions",
            ["celery", "kombu", "redis", "boto3", "msgspec", "tasks.engine", "tasks.ports.context", "workers"],
        ),
        ("scheduler.timetable", ["sqlalchemy", "celery", "models", "tasks", "workers.app"]),
        ("models", ["celery", "boto3", "redis", "tasks"]),
        ("email_templates.catalogue", ["celery", "sqlalchemy", "typst", "boto3", "models"]),
    ],
)
def test_an_import_brings_only_what_it_needs(imported: str, unwanted: list[str]) -> None:
    program = f"import {imported}, sys; print([name for name in {unwanted!r} if name in sys.modules])"
    assert run(program).strip() == "[]"
