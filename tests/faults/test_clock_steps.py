"""Clocks that are set, forward and back: of the host, of a worker, of the database. Living processes lose nothing
(W42).
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psutil
import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.work import row
from models.work.request import JobRequest
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow
from tasks.engine.lease import rescue
from tasks.ports.context import Ports
from tests.integration.engine.test_drain import job, requests, states
from tests.support.time.clock import Clock
from workers.celery import identity

STEPS = [timedelta(days=-400), timedelta(hours=-1), timedelta(seconds=3), timedelta(hours=1), timedelta(days=400)]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_step_of_the_hosts_clock_leaves_a_living_process_alive(
    monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    """The kernel computes the time of boot from the time of now, and so moves it with every step."""
    name = identity.identity()
    booted, now = psutil.boot_time(), time.time()
    for module in (psutil, psutil._psplatform):
        monkeypatch.setattr(module, "boot_time", lambda: booted + step.total_seconds())
    monkeypatch.setattr(time, "time", lambda: now + step.total_seconds())
    assert identity.identity() == name
    assert identity.dead([name]) == []


def test_two_machines_of_one_host_name_are_two() -> None:
    here = identity.host()
    other = here.replace(here.split("/")[1], "00000000-0000-4000-8000-000000000000")
    assert other != here
    assert identity.dead([f"{other}|999999999|1"]) == []


def test_a_process_that_proc_hides_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hidepid` hides other users' processes from `/proc`, and the kernel still says that they are there."""

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert identity.dead([f"{identity.host()}|999999999|1"]) == []


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_step_of_the_databases_clock_takes_no_row_from_a_living_process(
    database: Database, ports: Ports, clock: Clock, step: timedelta
) -> None:
    """While a row is worked on, the clock is set; another worker rescues again and again, and takes nothing."""
    ids = requests(database, 1)
    lease = timedelta(seconds=1.5)
    rescued: list[int] = []

    def act(_item: UUID, _claimed: ClaimedRow) -> str:
        clock.advance(step)
        ends = time.monotonic() + 3 * lease.total_seconds()
        while time.monotonic() < ends:
            rescued.append(rescue(JobRequest, replace(ports, lease=lease)))
            time.sleep(0.1)
        return "done"

    assert drain(job(act), replace(ports, lease=lease)) == {"done": 1}
    assert set(rescued) == {0}
    assert states(database, ids) == ["done"]
    with database.connection() as connection:
        assert connection.execute(text("SELECT attempts, crashes FROM tenure.job_requests")).one() == (1, 0)


@pytest.mark.parametrize("step", [each for each in STEPS if each > timedelta(0)], ids=str)
def test_what_a_lost_machine_held_is_taken_over_after_a_step_too(
    database: Database, ports: Ports, clock: Clock, step: timedelta
) -> None:
    requests(database, 1)
    lease = timedelta(seconds=1)
    with database.connection() as connection:
        assert row.claim(connection, JobRequest, 1, worker="elsewhere|7|7", lease=lease)
    clock.advance(step)
    ends = time.monotonic() + 30
    while not rescue(JobRequest, replace(ports, lease=lease)):
        assert time.monotonic() < ends, "The row of the lost machine was not taken over."
        time.sleep(0.1)
