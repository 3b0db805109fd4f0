"""The page from which a record is downloaded: what it says, in parts, by whom, until when (T18, P9.4)."""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import uvicorn
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from models.termination.termination import Step
from tasks.crypto import keyring
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination import downloads
from tasks.termination.advancing import ADVANCE, EXPORT
from tasks.termination.cancelling import cancel
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.terminating import a_termination, steps
from tests.support.servers.browser import browser, chromium
from tests.support.time.deadlines import deadline
from workers.services.download_page import application


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        return self.body.decode()


@dataclass
class Page:
    """The page over a real socket, and the record of a customer `acme`."""

    port: int
    database: Database
    ports: Ports
    termination: UUID

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=deadline(60))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        got = connection.getresponse()
        answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        connection.close()
        return answer

    def link(self, language: str = "de") -> str:
        """The path in the letter to whoever reads that language."""
        with self.database.connection() as connection:
            asked = "SELECT context ->> 'page' FROM tenure.email_messages WHERE recipient ->> 'language' = :language"
            return str(connection.execute(text(asked), {"language": language}).scalars().first())

    def begun(self, language: str = "de") -> str:
        """Press the button: the address of a download."""
        answer = self.ask(self.link(language), "POST")
        assert answer.status == 303
        return answer.headers["location"]

    def sql(self, statement: str) -> Any:
        with self.database.connection() as connection:
            done = connection.execute(text(statement))
            return done.one() if done.returns_rows else None

    def downloaded(self) -> bool:
        ends = monotonic() + deadline(5)
        while monotonic() < ends:
            # What has left is noted when the other side has it all, and so a moment after that.
            if self.sql("SELECT downloaded_at FROM tenure.terminations").downloaded_at:
                return True
            sleep(0.05)
        return False


@pytest.fixture
def shown(database: Database, ports: Ports) -> Iterator[Page]:
    with database.transaction() as session:
        account = an_account(session, ref="C-10417", name="Köhler & Söhne <GmbH>")
        for language in ("de", "en", "fr", "ar"):
            a_contact(session, account, language=language, email=f"{language}@acme.example")
        termination = a_termination(session, account.id, Step.BEGIN).id
    while sum(drain(job, ports)["steps"] for job in (ADVANCE, EXPORT)):
        pass
    server = uvicorn.Server(
        uvicorn.Config(application(ports), port=0, log_config=None, access_log=False, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Page(port, database, ports, termination)
    server.should_exit = True
    thread.join(deadline(20))


def test_it_says_what_is_there_and_until_when(shown: Page) -> None:
    answer = shown.ask(shown.link("en"))
    row = shown.sql("SELECT * FROM tenure.terminations")
    assert answer.status == 200
    for said in ("Köhler &amp; Söhne &lt;GmbH&gt;", "C-10417", row.manifest_sha256.hex(), "You can download it until"):
        assert said in answer.said
    assert re.search(r'<form class="offer" method="post">', answer.said)
    assert shown.ask(shown.link("en"), "HEAD").body == b""


@pytest.mark.parametrize(
    ("language", "said", "direction"),
    [("de", "Aufstellung herunterladen", "ltr"), ("fr", "Télécharger le relevé", "ltr"), ("ar", "تنزيل السجل", "rtl")],
)
def test_it_speaks_the_recipients_language(shown: Page, language: str, said: str, direction: str) -> None:
    answer = shown.ask(shown.link(language)).said
    assert said in answer
    assert f'<html lang="{language}" dir="{direction}">' in answer


def test_it_sets_no_cookie_and_is_kept_nowhere(shown: Page) -> None:
    for answer in (shown.ask(shown.link()), shown.ask(shown.begun()), shown.ask("/exports/x")):
        assert "set-cookie" not in answer.headers
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "noindex" in answer.headers["x-robots-tag"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")


def test_the_record_comes_whole_and_is_delivered_then(shown: Page) -> None:
    row = shown.sql("SELECT * FROM tenure.terminations")
    answer = shown.ask(shown.begun())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")
    assert int(answer.headers["content-length"]) == len(answer.body) == row.content_size
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert sha256(archive.read("manifest.json")).digest() == row.manifest_sha256
    assert shown.downloaded()
    drain(ADVANCE, shown.ports)
    row = shown.sql("SELECT * FROM tenure.terminations")
    assert (row.stage, row.delivered_by) == ("delivered", "download")
    assert steps(shown.database)["purge"] == "pending"
    assert "Mit diesem Link wurde sie am" in shown.ask(shown.link()).said


def test_parts_make_the_whole_and_only_the_whole_is_a_download(shown: Page) -> None:
    path = shown.begun()
    whole = shown.sql("SELECT content_size FROM tenure.terminations").content_size
    middle = whole // 2
    head = shown.ask(path, "HEAD")
    assert (head.status, head.headers["accept-ranges"], head.body) == (200, "bytes", b"")
    assert int(head.headers["content-length"]) == whole
    first = shown.ask(path, Range=f"bytes=0-{middle}")
    assert (first.status, first.headers["content-range"]) == (206, f"bytes 0-{middle}/{whole}")
    last = shown.ask(path, Range=f"bytes=-{whole - middle - 2}")
    sleep(0.3)
    assert shown.sql("SELECT downloaded_at FROM tenure.terminations").downloaded_at is None, "one byte is missing"
    between = shown.ask(path, Range=f"bytes={middle + 1}-{middle + 1}", If_Range=head.headers["etag"])
    assert len(between.body) == 1
    with zipfile.ZipFile(io.BytesIO(first.body + between.body + last.body)) as archive:
        assert archive.testzip() is None
    assert shown.downloaded()


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=999999999-", 416),
        ("bytes=5-2", 416),
        ("bytes=-0", 416),
        ("bytes=0-1,4-5", 200),
        ("bytes=-", 200),
        ("rows=0-1", 200),
        ("bytes=" + "9" * 40 + "-", 200),
    ],
)
def test_what_is_no_part(shown: Page, wanted: str, status: int) -> None:
    assert shown.ask(shown.begun(), Range=wanted).status == status


def test_another_version_is_sent_whole(shown: Page) -> None:
    assert shown.ask(shown.begun(), Range="bytes=0-1", If_Range='"other"').status == 200


def test_a_download_that_breaks_off_is_none(shown: Page) -> None:
    """The other side hangs up after the headers."""
    shown.sql("UPDATE tenure.export_links SET received = '{[0,1)}'")
    connection = http.client.HTTPConnection("127.0.0.1", shown.port)
    connection.request("GET", shown.begun(), headers={"Range": "bytes=3-9"})
    connection.getresponse()
    connection.close()
    sleep(0.5)
    assert shown.sql("SELECT downloaded_at FROM tenure.terminations").downloaded_at is None


def test_looking_downloads_nothing(shown: Page) -> None:
    """Mail scanners follow links."""
    for method in ("GET", "HEAD"):
        shown.ask(shown.link(), method)
    assert shown.ask(shown.begun(), "HEAD").status == 200
    sleep(0.3)
    received = shown.sql("SELECT count(*) AS n FROM tenure.export_links WHERE received <> '{}'")
    assert received.n == 0


@pytest.mark.parametrize(
    "path", ["/exports/x", "/exports/" + "A" * 43, "/", "/exports/-", "/exports/%00", "/exports/-/a.1.b/record.zip"]
)
def test_a_link_to_nowhere_says_so(shown: Page, path: str) -> None:
    answer = shown.ask(path, Accept_Language="sv, fr-CH;q=0.8, en;q=0.5")
    assert answer.status == 404
    assert "Ce lien ne mène nulle part" in answer.said
    assert shown.ask(path, "POST").status == 404


def test_an_address_that_was_changed_or_is_old_downloads_nothing(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shown.begun()
    signed = path.split("/")[3]
    link, ends, mac = signed.split(".")
    changed = (f"{link}.{int(ends) + 1}.{mac}", f"{link}.{ends}.{mac[:-1]}", f"{link}.{ends}.", f"{link}.é.{mac}")
    for other in (*changed, "..", f"{link}.{ends}.{'é' * 20}", f"{link}.{ends}"):
        assert shown.ask(f"/exports/-/{quote(other)}/record.zip").status == 404
    with monkeypatch.context() as long_ago:
        long_ago.setattr(downloads, "LIFETIME", -downloads.LIFETIME)
        stale = shown.ask(shown.begun())
    assert (stale.status, "Dieser Download ist abgelaufen" in stale.said) == (410, True)
    assert shown.ask(path).status == 200


def test_when_its_time_is_over_the_record_is_not_to_be_had(shown: Page) -> None:
    path = shown.begun()
    shown.sql("UPDATE tenure.terminations SET available_until = now()")
    for answer in (shown.ask(shown.link()), shown.ask(path), shown.ask(shown.link(), "POST")):
        assert (answer.status, "Die Aufstellung ist nicht mehr da" in answer.said) == (410, True)


def test_of_a_termination_that_was_taken_back_nothing_is_to_be_had(shown: Page) -> None:
    path, link = shown.begun(), shown.link()
    with shown.database.transaction() as session:
        cancel(session, shown.termination)
    assert [shown.ask(each).status for each in (path, link)] == [410, 410]


def test_a_key_that_was_destroyed_is_no_bug(shown: Page) -> None:
    path = shown.begun()
    with shown.database.transaction() as session:
        account = shown.sql("SELECT account_id FROM tenure.terminations").account_id
        keyring.destroy(session, account, KeyPurpose.EXPORT, shown.termination)
    assert shown.ask(path).status == 410
    assert shown.ask(shown.link(), "POST").status == 410


def test_a_delivery_that_was_given_up_goes_on_when_the_record_is_fetched(shown: Page) -> None:
    shown.sql("UPDATE tenure.termination_steps SET state = 'failed' WHERE step = 'deliver'")
    assert shown.sql("SELECT stage FROM tenure.terminations").stage == "failed"
    shown.ask(shown.begun())
    assert shown.downloaded()
    drain(ADVANCE, shown.ports)
    assert shown.sql("SELECT stage FROM tenure.terminations").stage == "delivered"


def test_the_process_answers_and_ends_in_order(
    shown: Page, servers: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, **servers, "TENURE_DATABASE_URL": database_url, "TENURE_DOWNLOAD_PORT": str(port)}
        command = [sys.executable, "-m", "workers.commands", "download-page"]
        refused = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=deadline(60)
        )
        assert refused.returncode == 1
        assert f"tenure: 127.0.0.1:{port} cannot be listened on" in refused.stderr
        assert "Traceback" not in refused.stderr
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        other = Page(port, shown.database, shown.ports, shown.termination)
        ends = monotonic() + deadline(30)
        while monotonic() < ends:
            try:
                other.ask("/exports/x")
                break
            except ConnectionError:
                sleep(0.1)
        # The address that one process made is good at another.
        assert other.ask(shown.begun()).status == 200
        secret = shown.link().rsplit("/", 1)[1]
        other.ask(shown.link())
    finally:
        process.terminate()
    assert process.wait(deadline(30)) == 0
    assert secret not in (tmp_path / "log").read_text(), "an address is a secret, and is not logged"


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (320, False), (320, True)])
@pytest.mark.parametrize("language", ["en", "de", "fr", "ar"])
def test_in_a_browser(shown: Page, tmp_path: Path, language: str, width: int, dark: bool) -> None:
    """P9.4: no cookie, nothing from elsewhere; readable in both schemes and on a narrow screen."""
    from tests.integration.mail.test_in_browser import LOOK

    program = chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("There is no chromium, and CI must have one: .ci/run installs it.")
        pytest.skip("no chromium on this machine")
    answer = shown.ask(shown.link(language))
    with browser(program, tmp_path) as chrome:
        chrome.look(width=width, dark=dark)
        chrome.open(answer.said)
        seen = chrome.evaluate(LOOK)
        cookies = chrome.call("Network.getAllCookies")["cookies"]
        picture = chrome.picture()
        asked = [each for each in chrome.requested if not each.startswith(("data:", "file:"))]
        (Path(os.environ.get("PICTURES", tmp_path)) / f"page-{language}-{width}-{dark}.png").write_bytes(picture)
    assert (seen["faint"], cookies, asked) == ([], [], [])
    assert seen["width"] <= width
