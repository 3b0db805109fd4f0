"""Beat counts seconds and reads no clock (W11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import time

import pytest
import redis
from celery import Celery

from scheduler.timetable import TIMETABLE
from workers.celery import beat
from workers.celery.routing import ROUTES
from workers.celery.waker import _key

EVERY = {entry.task: entry.every.total_seconds() for entry in TIMETABLE}


@pytest.fixture
def broker(servers: Mapping[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers["TENURE_BROKER_URL"]) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def ticks(servers: Mapping[str, str]) -> Iterator[beat.Ticks]:
    with Celery("ticks", broker=servers["TENURE_BROKER_URL"]) as app:
        app.conf.beat_schedule = {entry.task: {"task": entry.task, "schedule": entry.every} for entry in TIMETABLE}
        app.conf.task_routes = {task: {"queue": queue} for task, queue in ROUTES.items()}
        yield beat.Ticks(app)


def taken(broker: redis.Redis) -> set[str]:
    """The tasks for which a message waits; they are taken, as a worker would."""
    found = {task for task in EVERY if broker.delete(_key(task))}
    for queue in set(ROUTES.values()):
        broker.delete(queue)
    return found


def test_every_entry_ticks_at_once_and_then_at_its_own_pace(
    ticks: beat.Ticks, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(beat, "monotonic", lambda: now)
    assert 0 < ticks.tick() <= ticks.max_interval
    assert taken(broker) == set(EVERY)
    ticks.tick()
    assert taken(broker) == set()
    for seconds in (10, 15, 30, 60, 300):
        now = 1_000.0 + seconds
        ticks.tick()
        assert {task for task, every in EVERY.items() if every == seconds} <= taken(broker)


@pytest.mark.parametrize("hours", [-3, -1, 1, 3])
def test_a_clock_that_is_set_makes_no_tick_late(
    ticks: beat.Ticks, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """As by a wrong clock that is put right, or by one that was in local time when summer ended."""
    now = 1_000.0
    monkeypatch.setattr(beat, "monotonic", lambda: now)
    ticks.tick()
    taken(broker)
    stepped = time() + hours * 3600
    monkeypatch.setattr("time.time", lambda: stepped)
    monkeypatch.setattr(ticks.app, "now", lambda: pytest.fail("Beat looked at the clock"), raising=False)
    now += 60
    ticks.tick()
    assert taken(broker) == {task for task, every in EVERY.items() if every <= 60}
    now += max(EVERY.values())
    ticks.tick()
    assert taken(broker) == set(EVERY)
