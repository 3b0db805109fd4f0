"""Nothing leaves but to the addresses that are configured (P3.1f): every connection of real processes is witnessed.

Two witnesses, since neither sees all. An audit hook in each interpreter is told of every connection and of every name
that Python asks for, however short, and of nothing that a C library does: psycopg connects in libpq. What the kernel
lists of the processes' sockets is looked at again and again; it has whoever connected, and misses what is over at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.processes import Processes, Running, eventually
from tests.support.time.deadlines import deadline
from workers.observe import outbound
from workers.observe.promises.evidence import Installation, Verdict
from workers.observe.promises.terminations import connections_are_configured
from workers.settings.settings import parse

REPOSITORY = Path(__file__).parents[2]
#: Loaded by every interpreter that has its folder on PYTHONPATH, before anything else.
HOOK = """
import json, os, sys, threading

_LOG = os.open(os.environ["OUTBOUND_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def _hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        said = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        said = arguments[:2]
    else:
        return
    said = list(said) if isinstance(said, tuple) else [said]
    os.write(_LOG, (json.dumps([event, [str(each) for each in said]]) + chr(10)).encode())

sys.addaudithook(_hook)

def _rogue():
    import socket
    how, port = os.environ["OUTBOUND_ROGUE"].split(":")
    if how == "python":
        socket.create_connection(("127.0.0.1", int(port))).close()
    else:
        import psycopg
        psycopg.connect(f"host=127.0.0.1 port={port} dbname=x user=x connect_timeout=60")

if "OUTBOUND_ROGUE" in os.environ:
    threading.Thread(target=_rogue, daemon=True).start()
"""
#: Seconds between two looks at the processes' sockets.
LOOK = 0.05


@dataclass
class Witness:
    """What was seen of the processes: by the hook, and by the kernel."""

    log: Path
    processes: Processes
    in_the_kernel: set[outbound.Address] = field(default_factory=set)

    def watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK):
            for running in tuple(self.processes.started):
                with suppress(psutil.Error, AssertionError):
                    main = psutil.Process(running.pid)
                    self.in_the_kernel |= outbound.connections([main, *main.children(recursive=True)])

    def by_the_hook(self) -> set[tuple[str, ...]]:
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        return {(event, *said) for event, said in map(json.loads, lines)}

    def strangers(self, allowed: Mapping[outbound.Address, str]) -> set[tuple[str, ...]]:
        """Whatever was seen that the settings do not name."""
        own = {socket.gethostname(), socket.getfqdn(), "", "None"}
        addresses = {(host, str(port)) for host, port in {*allowed, *outbound.resolved(allowed)}}
        hosts = {host for host, _ in addresses} | own
        found = {("kernel", host, str(port)) for host, port in self.in_the_kernel if (host, str(port)) not in addresses}
        for event, *said in self.by_the_hook():
            known = tuple(said[:2]) in addresses if event in CONNECTING else said[0] in hosts
            if not known:
                found.add((event, *said))
        return found


CONNECTING = {"socket.connect", "socket.sendto", "socket.sendmsg"}


@contextmanager
def watched(addresses: Mapping[str, str], directory: Path, **rogue: str) -> Iterator[tuple[Processes, Witness]]:
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    log = directory / "outbound.log"
    told = {"PYTHONPATH": f"{directory}{os.pathsep}{REPOSITORY}", "OUTBOUND_LOG": str(log), **rogue}
    over = threading.Event()
    with Processes(dict(addresses) | told, directory) as processes:
        witness = Witness(log, processes)
        thread = threading.Thread(target=witness.watch, args=(over,), daemon=True)
        thread.start()
        try:
            yield processes, witness
        finally:
            over.set()
            thread.join(deadline(10))


@pytest.fixture
def environment(servers: dict[str, str], database_url: str, broker: redis.Redis, inbox: Path) -> dict[str, str]:
    assert broker.ping()
    assert inbox.is_dir()
    quick = {"TENURE_GRACE_DAYS": "0", "TENURE_PURGE_QUIET_HOURS": "0"}
    return servers | quick | {"TENURE_DATABASE_URL": database_url}


@pytest.fixture
def allowed(environment: dict[str, str]) -> dict[outbound.Address, str]:
    return outbound.configured(parse(environment), environment)


def verdict(environment: Mapping[str, str], database: Database) -> Verdict:
    """What `tenure policy` says of it."""
    with database.connection() as connection:
        return connections_are_configured(Installation(parse(environment), connection)).verdict


@pytest.mark.timeout(300)
def test_processes_talk_to_the_configured_addresses_alone(
    environment: dict[str, str],
    allowed: dict[outbound.Address, str],
    database: Database,
    outcome: Outcome,
    tmp_path: Path,
) -> None:
    customers(database, 2)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET invoiced_from = now()::date - 1 WHERE ref = 'kunde-1'"))
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (id, account_id, secret_sha256)
                SELECT tenure.session_id_at(now() - interval '30 hours'), id, sha256('')
                  FROM tenure.accounts LIMIT 1""")
        )
        connection.execute(
            text("""
                SELECT tenure.record_entry('kunde-1', 'charge', 'EUR', 11900, 'Plan', external_ref => 'order-1',
                                           tax_category => 'S', tax_rate => 1900)""")
        )
    with watched(environment, tmp_path / "run") as (processes, witness):
        running = [processes.worker(), processes.relay(), processes.beat()]
        page = processes.download_page()
        outcome.one("""SELECT tenure.request('invoices.issue', '{"account": "kunde-1"}')::text""")
        eventually(lambda: outcome.statements_done() >= 2, "statements are made")
        eventually(lambda: outcome.states("invoice_documents") == {"done": 1}, "an invoice is made")
        eventually(lambda: outcome.quiet() and outcome.mails_sent() >= 2, "mail has left")
        eventually(lambda: outcome.one("SELECT count(*) FROM tenure.sessions") == 0, "old sessions are swept")
        outcome.one("""SELECT tenure.request('terminations.request', '{"account": "kunde-1"}')::text""")
        announced = "SELECT count(*) FROM tenure.email_messages WHERE message = 'export-ready' AND state = 'done'"
        eventually(lambda: outcome.one(announced) == 1, "the record is announced")
        assert outcome.fetched(page, "kunde-1")[:2] == b"PK"
        eventually(lambda: outcome.one("SELECT stage FROM tenure.terminations") == "certified", "all is purged")
        # What `tenure policy` looks at, while they run.
        known = {each.pid for each in outbound.processes(environment["TENURE_DATABASE_URL"])}
        assert {each.pid for each in (*running, page)} <= known
        assert verdict(environment, database) is Verdict.KEPT
    assert witness.strangers(allowed) == set()
    # Each witness has seen what it can see: none of them was asleep.
    by_setting = {name: address for address, name in allowed.items()}
    python = {tuple(said) for event, *said in witness.by_the_hook() if event == "socket.connect"}
    for name in ("TENURE_BROKER_URL", "TENURE_S3_ENDPOINT", "TENURE_MAIL_URL"):
        host, port = by_setting[name]
        assert (host, str(port)) in python, name
    assert outbound.resolved([by_setting["TENURE_DATABASE_URL"]]) & witness.in_the_kernel


def test_a_proxy_is_where_settings_lead(environment: dict[str, str]) -> None:
    told = environment | {"HTTPS_PROXY": "http://proxy.example:3128"}
    assert outbound.configured(parse(environment), told)["proxy.example", 3128] == "HTTPS_PROXY"


@pytest.mark.parametrize("how", ["python", "c"])
def test_a_rogue_connection_is_seen(
    how: str, environment: dict[str, str], allowed: dict[outbound.Address, str], database: Database, tmp_path: Path
) -> None:
    """A worker connects to where no setting leads: by Python, or in C, of which the hook knows nothing."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        with watched(environment, tmp_path / "run", OUTBOUND_ROGUE=f"{how}:{port}") as (processes, witness):
            worker: Running = processes.worker()
            eventually(lambda: witness.strangers(allowed), "the stranger is seen", seconds=30)
            # One that is over at once nobody can see afterwards; this one still waits for an answer.
            assert how == "python" or verdict(environment, database) is Verdict.BROKEN
            assert worker.alive()
    events = {event for event, *said in witness.strangers(allowed) if said == ["127.0.0.1", port]}
    assert ("socket.connect" if how == "python" else "kernel") in events
    assert how == "python" or events == {"kernel"}
