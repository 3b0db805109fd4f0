"""A record of 300 MB through the page's own process: flat memory, parts, slow and vanished customers (T16, T18)."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
import uvicorn
from sqlalchemy import text

from benchmarks.processes import peak
from models.termination.termination import Step, Termination
from tasks.client.files import store_file
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE, EXPORT
from tasks.termination.exporting import opened
from tests.conftest import TEMPLATE, RecordedWaker, drop
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.terminating import a_termination
from tests.support.servers.processes import Processes, Running, eventually
from tests.support.time.deadlines import deadline
from workers.app import app
from workers.services import download_page
from workers.settings.settings import parse
from workers.wiring import bootstrap

MIB = 1 << 20
LARGE, SMALL = 300 * MIB, MIB
#: How many times the memory three hundred times the bytes may take.
MOST = 1.2
#: Deflate looks back 32 KiB: what comes again after a MiB is as good as noise, and costs nothing to make.
NOISE = os.urandom(MIB)

pytestmark = pytest.mark.timeout(240)


@dataclass
class Record:
    """A record and the path of its page."""

    termination: UUID
    link: str
    size: int


@dataclass
class Records:
    ports: Ports
    addresses: dict[str, str]
    records: dict[int, Record]

    def content(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """As it was exported, opened here."""
        with self.ports.database.transaction() as session:
            termination = session.get_one(Termination, self.records[size].termination)
            session.expunge(termination)
        return opened(self.ports, termination).content(start, stop)

    def downloaded(self, size: int) -> bool:
        with self.ports.database.connection() as connection:
            asked = text("SELECT downloaded_at IS NOT NULL FROM tenure.terminations WHERE id = :id")
            return bool(connection.execute(asked, {"id": self.records[size].termination}).scalar_one())


@pytest.fixture(scope="module")
def made(servers: dict[str, str], template: str) -> Iterator[Records]:
    """A large record and a small one, exported as any."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
    addresses = servers | {"TENURE_DATABASE_URL": template.rpartition("/")[0] + f"/{name}"}
    ports = replace(bootstrap.ports(parse(addresses), app), wake=RecordedWaker(), budget=timedelta(seconds=60))
    try:
        yield Records(ports, addresses, {size: _exported(ports, size) for size in (LARGE, SMALL)})
    finally:
        ports.database.engine.dispose()
        for folder in ("archives/", "files/"):
            for stored in ports.objects.list(folder):
                ports.objects.erase(stored.key)
        with psycopg.connect(template, autocommit=True) as connection:
            drop(connection, name)


def _exported(ports: Ports, size: int) -> Record:
    ref = f"file-of-{size}"
    with ports.database.transaction() as session:
        account = an_account(session, ref=ref)
        a_contact(session, account, email=f"{size}@acme.example")
        account_id = account.id
    content = (NOISE for _ in range(size // MIB))
    store_file(ports.database, ports.objects, ports.keyring, account=ref, name="film.bin", content=content)
    with ports.database.transaction() as session:
        termination = a_termination(session, account_id, Step.BEGIN).id
    while sum(drain(job, ports)["steps"] for job in (ADVANCE, EXPORT)):
        pass
    with ports.database.connection() as connection:
        row = connection.execute(
            text("""
                SELECT t.content_size, e.context ->> 'page' AS page FROM tenure.terminations AS t
                  JOIN tenure.email_messages AS e ON e.termination_id = t.id AND e.context ->> 'page' IS NOT NULL
                 WHERE t.id = :id"""),
            {"id": termination},
        ).one()
    return Record(termination, row.page, row.content_size)


@dataclass
class Page:
    """The page, wherever it runs."""

    port: int
    records: Records

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=deadline(60))
        connection.request(method, path, headers=headers)
        return connection.getresponse()

    def begun(self, size: int) -> str:
        answer = self.get(self.records.records[size].link, "POST")
        assert answer.status == 303
        return str(answer.headers["location"])

    def fetched(self, path: str, **headers: str) -> tuple[str, int]:
        """SHA-256 and size of what comes; nothing of it is kept."""
        answer, digest, size = self.get(path, **headers), sha256(), 0
        while piece := answer.read(MIB):
            digest.update(piece)
            size += len(piece)
        return digest.hexdigest(), size

    def slow(self, path: str) -> socket.socket:
        """A customer who asks for a record and takes next to nothing of it."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: acme.example\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        return client


@pytest.fixture
def process(made: Records, tmp_path: Path) -> Iterator[tuple[Page, Running]]:
    """The page's own process, fresh."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]

    def answers(_: Running) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with Processes(made.addresses, tmp_path) as processes:
        command = ["workers.commands", "download-page"]
        yield Page(port, made), processes.run("page", command, answers, download_port=port)


def reading(pid: int, made: Records) -> int:
    """How many connections a process has to the object store."""
    port = urlsplit(made.addresses["TENURE_S3_ENDPOINT"]).port
    open_ones = psutil.Process(pid).net_connections("tcp")
    return sum(1 for each in open_ones if each.raddr and each.raddr.port == port and each.status == "ESTABLISHED")


def test_its_size_costs_no_memory(process: tuple[Page, Running], made: Records) -> None:
    page, running = process
    page.fetched(page.begun(SMALL))
    few = peak(running.pid)
    digest, size = page.fetched(page.begun(LARGE))
    many = peak(running.pid)
    assert size == made.records[LARGE].size > LARGE
    expected = sha256()
    for piece in made.content(LARGE):
        expected.update(piece)
    assert digest == expected.hexdigest()
    assert 0 < many <= MOST * few, f"{few:,} bytes for the small record, {many:,} for the large one"


def test_a_download_that_breaks_off_again_and_again_is_taken_up(
    process: tuple[Page, Running], made: Records, tmp_path: Path
) -> None:
    """As `curl -C -` and a browser's download manager do."""
    page, running = process
    size = made.records[LARGE].size
    with made.ports.database.connection() as connection:
        connection.execute(text("UPDATE tenure.export_links SET received = '{}', downloaded_at = NULL"))
        connection.execute(text("UPDATE tenure.terminations SET downloaded_at = NULL"))
    kept = tmp_path / "record.zip"
    path, breaks = page.begun(LARGE), [40 * MIB + 1, 41 * MIB, 200 * MIB + 7, None]
    with kept.open("ab") as file:
        for stop in breaks:
            have = file.tell()
            answer = page.get(path, Range=f"bytes={have}-")
            assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {have}-{size - 1}/{size}")
            while (stop is None or file.tell() < stop) and (piece := answer.read(MIB // 4)):
                file.write(piece)
            assert stop is None or not made.downloaded(LARGE)
            answer.close()
    assert kept.stat().st_size == size
    with kept.open("rb") as file:
        for piece in made.content(LARGE):
            assert file.read(len(piece)) == piece
    eventually(lambda: made.downloaded(LARGE), "the parts make a download", seconds=10)
    for start, stop in ((150 * MIB - 3, 150 * MIB + 70_001), (size - 5, size), (65_535, 65_537)):
        answer = page.get(path, Range=f"bytes={start}-{stop - 1}")
        assert answer.read() == b"".join(made.content(LARGE, start, stop))
    assert page.get(path, Range="bytes=-9").read() == b"".join(made.content(LARGE, size - 9, size))
    eventually(lambda: reading(running.pid, made) <= 1, "no connection is left to the object store", seconds=10)


def test_customers_who_are_slow_keep_nobody_waiting_and_leave_nothing_open(
    process: tuple[Page, Running], made: Records
) -> None:
    page, running = process
    before = reading(running.pid, made)
    path = page.begun(LARGE)
    slow = [page.slow(path) for _ in range(60)]
    # More than there are threads: they wait without one.
    assert reading(running.pid, made) > 40
    assert page.get(made.records[SMALL].link).status == 200
    assert page.fetched(page.begun(SMALL))[1] == made.records[SMALL].size
    # Nobody else has ended: those who are slow still hold what they opened.
    assert reading(running.pid, made) > 40
    for client in slow:
        client.close()
    eventually(lambda: reading(running.pid, made) <= before + 1, "the connections are closed", seconds=20)
    assert page.get(made.records[SMALL].link).status == 200
    assert "Traceback" not in running.all_text()


def test_who_takes_nothing_any_more_is_let_go(made: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was closed says no goodbye."""
    monkeypatch.setattr(download_page, "STALLED", 0.5)
    ended: list[Any] = []
    monkeypatch.setattr(download_page.log, "info", lambda event, **_: ended.append(event))
    page_app = download_page.application(made.ports)
    config = uvicorn.Config(page_app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, "the page listens")
    try:
        page = Page(server.servers[0].sockets[0].getsockname()[1], made)
        mine = os.getpid()
        path, before = page.begun(LARGE), reading(mine, made)
        with page.slow(path):
            eventually(lambda: "download_page.stalled" in ended, "it is let go", seconds=10)
            eventually(lambda: reading(mine, made) <= before + 1, "nothing is read for it any more", seconds=5)
        assert page.fetched(page.begun(SMALL))[1] == made.records[SMALL].size, "it was slow, and not let go"
    finally:
        server.should_exit = True
        thread.join(deadline(20))
