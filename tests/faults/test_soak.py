"""Random faults while work goes on: processes die, freeze and come back, the broker forgets. Then all is whole.

`make faults SECONDS=600 SEED=7` goes on for longer. The seed is printed; the same seed makes the same plan of faults,
though not the same race.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from time import monotonic

import pytest
import redis

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.processes import Processes, Running, eventually, throughout

SECONDS = float(os.environ.get("FAULT_SECONDS") or 20)
SEED = int(os.environ.get("FAULT_SEED") or 20_261_122)
#: New customers come in waves, so that there is always something to disturb.
WAVE = 12


@pytest.mark.timeout(SECONDS + 240)
def test_random_faults_lose_and_double_nothing(
    processes: Processes, database: Database, outcome: Outcome, broker: redis.Redis
) -> None:
    chance = random.Random(SEED)
    print(f"\nseed {SEED}, {SECONDS:.0f} s")
    relay, beat = processes.relay(), processes.beat()
    workers = [processes.worker(f"worker-{n}", concurrency=1, lease_seconds=6) for n in (1, 2)]
    done: Counter[str] = Counter()
    ends = monotonic() + SECONDS
    waves = 0
    while monotonic() < ends:
        waves += 1
        customers(database, WAVE, prefix=f"welle-{waves}-")
        beat.kill()
        beat.start()
        throughout(lambda: True, "", seconds=chance.uniform(0.3, 3.0))
        fault = chance.choice(FAULTS)
        victim = chance.choice(workers)
        done[fault.__name__] += 1
        fault(victim, relay, broker)
        for process in (*workers, relay, beat):
            if not process.alive():
                process.start()
    for process in workers:
        process.resume()
    total = waves * WAVE
    eventually(
        lambda: outcome.statements_done() == total and outcome.quiet(),
        f"all {total} statements done and everything quiet after {dict(done)}",
        seconds=180,
    )
    unknown = outcome.is_whole(total, may_be_unknown=True)
    print(f"{total} statements, faults {dict(done)}: 0 lost, 0 doubled, {len(unknown)} messages nobody can tell of")


def kill_a_worker(victim: Running, _relay: Running, _broker: redis.Redis) -> None:
    victim.kill()


def kill_a_child(victim: Running, _relay: Running, _broker: redis.Redis) -> None:
    for child in victim.children():
        os.kill(child, signal.SIGKILL)


def kill_the_relay(_victim: Running, relay: Running, _broker: redis.Redis) -> None:
    relay.kill()


def forget_all_messages(_victim: Running, _relay: Running, broker: redis.Redis) -> None:
    broker.flushall()


def freeze_past_the_lease(victim: Running, _relay: Running, _broker: redis.Redis) -> None:
    victim.stop()
    throughout(lambda: True, "", seconds=7)
    victim.resume()


def ask_to_stop(victim: Running, _relay: Running, _broker: redis.Redis) -> None:
    victim.terminate()
    victim.await_end()


FAULTS = (kill_a_worker, kill_a_child, kill_the_relay, forget_all_messages, freeze_past_the_lease, ask_to_stop)
