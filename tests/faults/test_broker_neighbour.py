"""A broker that answers all but what was asked: workers come back to work, and health says the truth (W18, W40)."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from celery import Celery

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.broker_server import BrokerServer
from tests.support.servers.processes import Processes, Running, eventually, measured
from tests.support.time.deadlines import deadline
from workers.observe import health
from workers.settings.settings import Settings, parse

KIND = "statements.send"
#: Seconds from the end of a fault until a request that is sent then is a row.
BACK_WITHIN = 30.0


@dataclass
class Neighbour:
    """A worker and a broker of its own."""

    broker: BrokerServer
    other: BrokerServer
    worker: Running
    outcome: Outcome
    database: Database
    settings: Settings
    #: What a fault needs for its own end.
    left: list[Callable[[], object]] = field(default_factory=list)

    def send(self, **arguments: object) -> str:
        """Ask for something by plain Celery; returns the dedupe key."""
        key = str(uuid4())
        with Celery(broker=self.broker.url, set_as_current=False) as client:
            client.send_task(KIND, kwargs={"account": "kunde-1", "dedupe_key": key, **arguments})
        return key

    def is_row(self, key: str) -> bool:
        return bool(self.outcome.query("SELECT FROM tenure.job_requests WHERE dedupe_key = :key", key=key))

    def works(self) -> float:
        """Seconds from now until a request is stored."""
        begun = time.monotonic()
        key = self.send()
        eventually(lambda: self.is_row(key), f"a request is stored\n{self.worker.text()[-4000:]}", seconds=BACK_WITHIN)
        return time.monotonic() - begun

    def health(self) -> str | None:
        with self.database.connection() as connection:
            return health.worker(self.settings, connection)


@pytest.fixture
def neighbour(
    servers: dict[str, str], database_url: str, database: Database, outcome: Outcome, tmp_path: Path
) -> Iterator[Neighbour]:
    customers(database, 3)
    with BrokerServer(tmp_path) as broker, BrokerServer(tmp_path, "other") as other:
        addresses = servers | {"TENURE_DATABASE_URL": database_url, "TENURE_BROKER_URL": broker.url}
        with Processes(addresses, tmp_path) as processes:
            worker = processes.worker(concurrency=1)
            made = Neighbour(broker, other, worker, outcome, database, parse(addresses))
            yield made


Fault = Callable[[Neighbour], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def demoted(here: Neighbour) -> Iterator[None]:
    here.broker.client().execute_command("REPLICAOF", "127.0.0.1", here.other.port)
    yield
    here.broker.client().execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def stale(here: Neighbour) -> Iterator[None]:
    """A replica whose primary is away, and that does not answer meanwhile: MASTERDOWN."""
    client = here.broker.client()
    client.config_set("replica-serve-stale-data", "no")
    client.execute_command("REPLICAOF", "127.0.0.1", 1)
    yield
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("replica-serve-stale-data", "yes")


def configured(name: str, bad: str, good: str, *, kill: bool = False) -> Fault:
    @contextlib.contextmanager
    def fault(here: Neighbour) -> Iterator[None]:
        client = here.broker.client()
        client.config_set(name, bad)
        if kill:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        client.config_set(name, good)

    return fault


@contextlib.contextmanager
def cannot_save(here: Neighbour) -> Iterator[None]:
    """MISCONF: the last snapshot failed."""
    client = here.broker.client()
    blocker = here.broker.directory / here.broker.name / "blocked.rdb"
    blocker.mkdir()
    client.config_set("dbfilename", blocker.name)
    client.config_set("save", "3600 1")
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails", seconds=20)
    yield
    client.config_set("save", "")
    client.config_set("dbfilename", "dump.rdb")
    blocker.rmdir()


@contextlib.contextmanager
def busy(here: Neighbour) -> Iterator[None]:
    client = here.broker.client()
    client.config_set("busy-reply-threshold", 100)

    def loop() -> None:
        with contextlib.suppress(redis.RedisError):
            here.broker.client().eval("while true do end", 0)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield
    eventually(lambda: _script_killed(here), "the script is ended", seconds=20)
    thread.join(deadline(20))


def _script_killed(here: Neighbour) -> bool:
    with contextlib.suppress(redis.ResponseError):
        return bool(here.broker.client().script_kill())
    return False


@contextlib.contextmanager
def frozen(here: Neighbour) -> Iterator[None]:
    assert here.broker.process is not None
    here.broker.process.send_signal(signal.SIGSTOP)
    yield
    here.broker.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def gone(here: Neighbour) -> Iterator[None]:
    here.broker.kill()
    yield
    here.broker.start()


@contextlib.contextmanager
def loading(here: Neighbour) -> Iterator[None]:
    """It starts, and reads a snapshot for some seconds: LOADING."""
    client = here.broker.client()
    with client.pipeline() as commands:
        for number in range(3_000):
            commands.set(f"filler:{number}", "x" * 100)
        commands.execute()
    client.save()
    here.broker.kill()
    slowly = {"key-load-delay": "4000", "loading-process-events-interval-bytes": "1024"}
    here.broker.configuration = slowly
    here.broker.start()
    yield
    here.broker.configuration = {}
    eventually(lambda: not _is_loading(here), "the snapshot is loaded", seconds=60)
    (here.broker.directory / here.broker.name / "dump.rdb").unlink()


def _is_loading(here: Neighbour) -> bool:
    try:
        here.broker.client().get("nothing")
    except redis.exceptions.BusyLoadingError:
        return True
    return False


@contextlib.contextmanager
def forbidden(here: Neighbour) -> Iterator[None]:
    """The rights of its user are taken away: NOPERM."""
    client = here.broker.client()
    client.execute_command("ACL", "SETUSER", "default", "-brpop", "-lpush")
    yield
    client.execute_command("ACL", "SETUSER", "default", "+brpop", "+lpush")


@contextlib.contextmanager
def user_switched_off(here: Neighbour) -> Iterator[None]:
    client = here.broker.client()
    client.execute_command("ACL", "SETUSER", "keeper", "on", "nopass", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "default", "off")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    client.execute_command("ACL", "SETUSER", "default", "on")


@contextlib.contextmanager
def wrong_type(here: Neighbour) -> Iterator[None]:
    """What is no list lies under the name of a queue: WRONGTYPE."""
    client = here.broker.client()
    client.set("celery", "no list")
    # A BRPOP that waits already is not told; the next one is.
    yield
    client.delete("celery")


#: Faults during which a worker takes nothing: its health says so.
TAKES_NOTHING: dict[str, Fault] = {
    "demoted": demoted,
    "a replica without its primary": stale,
    "another password": configured("requirepass", "second", "first", kill=True),
    "its user switched off": user_switched_off,
    "rights taken away": forbidden,
    "no room for another client": configured("maxclients", "1", "10000", kill=True),
    "a script that does not end": busy,
    "frozen": frozen,
    "gone": gone,
    "loading": loading,
    "another type under a queue's name": wrong_type,
}


@contextlib.contextmanager
def killed_clients(here: Neighbour) -> Iterator[None]:
    for _ in range(5):
        here.broker.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.3)
    yield


@contextlib.contextmanager
def unblocked(here: Neighbour) -> Iterator[None]:
    client = here.broker.client()
    for _ in range(3):
        for each in client.client_list():
            if each["cmd"] == "brpop":
                client.execute_command("CLIENT", "UNBLOCK", each["id"], "ERROR")
        time.sleep(0.3)
    yield


@contextlib.contextmanager
def paused(here: Neighbour) -> Iterator[None]:
    here.broker.client().execute_command("CLIENT", "PAUSE", 3000, "ALL")
    yield


@contextlib.contextmanager
def emptied(here: Neighbour) -> Iterator[None]:
    here.broker.client().flushall()
    here.broker.client().script_flush()
    yield


@contextlib.contextmanager
def garbage_in_hand(here: Neighbour) -> Iterator[None]:
    """What kombu notes of messages in hand, written by somebody else."""
    client = here.broker.client()
    for number, note in enumerate((b"garbage", b"[1, 2, 3]", b"\xff", b'[{}, "", "celery"]', b"[" * 5_000)):
        client.hset("unacked", f"tag-{number}", note)
        client.zadd("unacked_index", {f"tag-{number}": 1})
    client.zadd("unacked_index", {"no note": 1})
    yield
    eventually(lambda: not client.hlen("unacked"), "the notes are cleared away", seconds=20)


#: Faults that refuse some things or pass by, so that a worker may be at work throughout.
PASSES: dict[str, Fault] = {
    "clients killed": killed_clients,
    "blocked clients released": unblocked,
    "paused": paused,
    "emptied": emptied,
    "full": configured("maxmemory", "1", "0"),
    "too few replicas": configured("min-replicas-to-write", "1", "0"),
    "cannot save": cannot_save,
    "garbage noted as in hand": garbage_in_hand,
}


@pytest.mark.timeout(900)
def test_a_worker_that_can_take_nothing_says_so_and_comes_back(neighbour: Neighbour) -> None:
    neighbour.works()
    assert neighbour.health() is None
    for what, fault in TAKES_NOTHING.items():
        with fault(neighbour):
            said = eventually(neighbour.health, f"{what}: health says that the worker takes nothing", seconds=40)
            assert neighbour.worker.alive(), what
        took = neighbour.works()
        eventually(lambda: neighbour.health() is None, f"{what}: it is healthy again", seconds=BACK_WITHIN)
        measured(f"{what}: back at work after {took:.1f} s; in between: {said}")
        assert neighbour.worker.alive(), what


@pytest.mark.timeout(600)
def test_a_worker_that_is_refused_now_and_then_goes_on(neighbour: Neighbour) -> None:
    neighbour.works()
    for what, fault in PASSES.items():
        with fault(neighbour):
            time.sleep(4)
        took = neighbour.works()
        eventually(lambda: neighbour.health() is None, f"{what}: it is healthy", seconds=BACK_WITHIN)
        measured(f"{what}: back at work after {took:.1f} s")
        assert neighbour.worker.alive(), what


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [demoted, configured("maxmemory", "1", "0"), gone], ids=["demoted", "full", "gone"])
def test_a_message_in_hand_when_the_broker_fails_costs_no_credit(
    neighbour: Neighbour, database_url: str, fault: Fault
) -> None:
    """Its acknowledgement is refused. Counted as in hand for ever, it would keep the worker from taking another."""
    neighbour.works()
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE tenure.job_requests IN ACCESS EXCLUSIVE MODE")
        held = [neighbour.send() for _ in range(3)]
        time.sleep(1.5)
        with fault(neighbour):
            time.sleep(2)
            connection.rollback()
            time.sleep(4)
    neighbour.works()
    eventually(lambda: neighbour.health() is None, "it is healthy again", seconds=BACK_WITHIN)
    # What the worker had in hand is stored, or was in a broker that came back empty.
    assert neighbour.is_row(held[0])
