"""The download page by HTTPS, with a certificate of its own (P5.1a), and against whoever means it no good (T18)."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.termination.termination import Step
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE, EXPORT
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.terminating import a_termination, go_on, stage
from tests.support.servers.processes import Processes, Running, eventually
from tests.support.servers.tls import HOST, written
from tests.support.time.deadlines import deadline
from workers.services.tls import CERTIFICATE, KEY


class Page:
    """The page's own process behind its certificate, and the path in a letter."""

    def __init__(self, port: int, authority: trustme.CA, running: Running, link: str) -> None:
        self.port, self.running, self.link = port, running, link
        self.trusting = ssl.create_default_context()
        authority.configure_trust(self.trusting)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPSConnection(HOST, self.port, timeout=deadline(30), context=self.trusting)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def says(self, raw: bytes) -> bytes:
        """The beginning of what it answers to these very bytes; nothing, where it hangs up."""
        with (
            socket.create_connection((HOST, self.port), 10) as plain,
            self.trusting.wrap_socket(plain, server_hostname=HOST) as client,
        ):
            try:
                client.sendall(raw)
                return client.recv(65536)
            except OSError:
                return b""


@pytest.fixture
def page(
    database: Database, ports: Ports, servers: dict[str, str], database_url: str, tmp_path: Path
) -> Iterator[Page]:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        a_contact(session, account)
        a_termination(session, account.id, Step.BEGIN)
    while sum(drain(job, ports)["steps"] for job in (ADVANCE, EXPORT)):
        pass
    with database.connection() as connection:
        asked = "SELECT context ->> 'page' FROM tenure.email_messages WHERE context ->> 'page' IS NOT NULL"
        link: str = connection.execute(text(asked)).scalars().one()
    authority = trustme.CA()
    certificate, key = written(authority, tmp_path)
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]

    def answers(_: Running) -> bool:
        with socket.socket() as client:
            return client.connect_ex((HOST, port)) == 0

    with Processes(servers | {"TENURE_DATABASE_URL": database_url}, tmp_path) as processes:
        running = processes.run(
            "page",
            ["workers.commands", "download-page"],
            answers,
            download_port=port,
            download_certificate=certificate,
            download_key=key,
        )
        yield Page(port, authority, running, link)
        assert "Traceback" not in running.all_text()
        assert link.rpartition("/")[2] not in running.all_text(), "an address is a secret, and is not logged"


def test_the_record_comes_by_https_and_each_answer_asks_for_it_again(page: Page, database: Database) -> None:
    shown, _ = page.ask(page.link)
    begun, _ = page.ask(page.link, "POST")
    path = begun.headers["location"]
    answer, body = page.ask(path)
    nothing, _ = page.ask("/exports/x")
    assert (shown.status, begun.status, answer.status, nothing.status) == (200, 303, 200, 404)
    assert path.startswith("/exports/-/"), "relative: it stays with HTTPS"
    with database.connection() as connection:
        row = connection.execute(text("SELECT content_size FROM tenure.terminations")).one()
    assert len(body) == row.content_size
    for each in (shown, begun, answer, nothing):
        assert each.headers["strict-transport-security"] == "max-age=31536000"
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["cache-control"] == "no-store"
        assert "set-cookie" not in each.headers
    middle = len(body) // 2
    part, rest = page.ask(path, Range=f"bytes={middle}-")
    assert part.status == 206
    assert sha256(body[:middle] + rest).digest() == sha256(body).digest()


@pytest.mark.filterwarnings("ignore:.*TLSv1_1:DeprecationWarning")
def test_only_tls_that_holds_gets_an_answer(page: Page) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(HOST, page.port, context=ssl.create_default_context()).request("GET", "/")
    with socket.create_connection((HOST, page.port), 10) as plain:
        plain.sendall(b"GET /exports/x HTTP/1.1\r\nHost: acme\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(100).startswith(b"HTTP")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((HOST, page.port), 10) as client, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(client)
    new = page.trusting
    new.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((HOST, page.port), 10) as client,
        new.wrap_socket(client, server_hostname=HOST) as agreed,
    ):
        cipher = agreed.cipher()
        assert cipher is not None
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0], "nothing that a browser calls weak"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"GET /exports/x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /exports/" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01" * 100 + b"\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /exports/%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404"),
        (b"GET /exports/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404"),
        (b"GET http://other.example/exports/x HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404"),
    ],
)
def test_what_nobody_honest_sends_does_no_harm(page: Page, raw: bytes, said: bytes) -> None:
    assert page.says(raw)[: len(said)] in {said, b""}
    assert page.ask(page.link)[0].status == 200


def test_other_methods_and_guesses_get_nothing(page: Page, database: Database) -> None:
    begun, _ = page.ask(page.link, "POST")
    path = begun.headers["location"]
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for asked in (page.link, path):
            answer, body = page.ask(asked, method)
            assert answer.status == 404
            assert b"PK\x03\x04" not in body
    assert page.ask(path, "POST")[0].status == 404
    secret = page.link.rpartition("/")[2]
    for guess in (secret[:-1], secret + "A", secret.swapcase(), secret[:-1] + "%00", "A" * 43, "A" * 10_000):
        assert page.ask(f"/exports/{guess}")[0].status == 404
        assert page.ask(f"/exports/{guess}", "POST")[0].status == 404
    for wanted in ("bytes=0-0,2-3", "bytes=0-", "bytes=a-b", "bytes=--1", "bytes=1-0", "", "bytes", "bytes=0-0" * 999):
        answer, body = page.ask(path, "HEAD", Range=wanted)
        assert (answer.status in {200, 206, 416}, body) == (True, b"")
    with database.connection() as connection:
        got = text("SELECT count(*) FROM tenure.export_links WHERE received <> '{}'")
        assert connection.execute(got).scalar_one() == 0


def test_of_an_account_that_was_purged_nothing_is_to_be_had_once_the_window_is_over(
    page: Page, ports: Ports, database: Database
) -> None:

    begun, _ = page.ask(page.link, "POST")
    path = begun.headers["location"]
    assert page.ask(path)[0].status == 200
    eventually(
        lambda: database_says(database, "SELECT downloaded_at IS NOT NULL FROM tenure.terminations"), "it is noted"
    )
    go_on(replace(ports, quiet=timedelta(0)))
    assert stage(database)[0] == "certified"
    assert page.ask(page.link)[0].status == page.ask(path)[0].status == 200, "it can be fetched again until then"
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.terminations SET available_until = now()"))
        connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE step = 'retire_archive'"))
    assert (page.ask(page.link)[0].status, page.ask(path)[0].status) == (410, 410)
    go_on(ports)
    assert database_says(database, "SELECT archive_purged_at IS NOT NULL FROM tenure.terminations")
    for asked, method in ((page.link, "GET"), (page.link, "POST"), (path, "GET"), (path, "HEAD")):
        answer, body = page.ask(asked, method)
        assert answer.status in {404, 410}
        assert b"acme" not in body


def database_says(database: Database, asked: str) -> bool:
    with database.connection() as connection:
        return bool(connection.execute(text(asked)).scalar_one())


def missing(certificate: Path, _key: Path) -> str:
    certificate.unlink()
    return f"{CERTIFICATE} names {certificate}, which cannot be read: No such file or directory."


def unreadable(_certificate: Path, key: Path) -> str:
    key.unlink()
    key.mkdir()
    return f"{KEY} names {key}, which cannot be read: Is a directory."


def of_another(certificate: Path, key: Path) -> str:
    trustme.CA().issue_cert(HOST).private_key_pem.write_to_path(key)
    return f"{KEY} names {key}, which is not the key of {certificate}"


def no_certificate(certificate: Path, _key: Path) -> str:
    certificate.write_text("hunter2")
    return f"{CERTIFICATE} names {certificate}, in which there is no certificate in PEM."


def no_key(_certificate: Path, key: Path) -> str:
    key.write_text("hunter2")
    return f"{KEY} names {key}, in which there is no private key in PEM."


def cut_off(certificate: Path, _key: Path) -> str:
    certificate.write_bytes(certificate.read_bytes()[:200])
    return f"{CERTIFICATE} names {certificate}, in which there is no certificate in PEM."


def changed_round(certificate: Path, key: Path) -> str:
    held = key.read_bytes()
    key.write_bytes(certificate.read_bytes())
    certificate.write_bytes(held)
    return f"{CERTIFICATE} names {certificate}, in which there is no certificate in PEM."


def locked(_certificate: Path, key: Path) -> str:
    opened = load_pem_private_key(key.read_bytes(), None)
    locked_by = BestAvailableEncryption(b"hunter2")
    key.write_bytes(opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked_by))
    return f"{KEY} names {key}, which a password protects"


@pytest.mark.parametrize(
    "spoilt", [missing, unreadable, of_another, no_certificate, no_key, cut_off, changed_round, locked]
)
def test_a_certificate_that_is_none_ends_with_a_sentence(
    tenure: Run, tmp_path: Path, spoilt: Callable[[Path, Path], str]
) -> None:
    certificate, key = written(trustme.CA(), tmp_path)
    said = spoilt(certificate, key)
    run = tenure("download-page", **{CERTIFICATE: str(certificate), KEY: str(key), "TENURE_DOWNLOAD_PORT": "1"})
    assert run.returncode == 2
    assert run.stderr.startswith(f"tenure: {said}")
    assert "Traceback" not in run.stderr
    assert "hunter2" not in run.stderr + run.stdout


@pytest.mark.parametrize(("given", "lacking"), [(CERTIFICATE, KEY), (KEY, CERTIFICATE)])
def test_one_without_the_other_is_refused(tenure: Run, given: str, lacking: str) -> None:
    run = tenure("download-page", **{given: "page.pem"})
    assert run.returncode == 2
    assert run.stderr.startswith(f"tenure: {lacking} is not set, and {given} is")
