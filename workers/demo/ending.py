"""One customer leaves: the record is fetched and opened, everything is erased, and the certificate says so (P6.1, T28).

It is asked for, downloaded and looked at as the customer and the company would. What is checked afterwards is looked
for in another way than it was deleted.
"""

from __future__ import annotations

import csv
import http.client
import io
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import redis
import structlog
import uvicorn
from celery import Celery
from rich.text import Text
from sqlalchemy import Connection, Row, text

from models.termination.certificate import CertificateKind
from tasks.certificates import publishing
from tasks.certificates.chain import Signed, document, examine
from tasks.client.requests import TerminationsRequest, submit
from tasks.export.manifest import Kind, Manifest
from tasks.export.verification import verify
from tasks.ports.context import Ports
from tasks.ports.objects import ObjectStore
from tasks.termination import preview
from workers.demo.checks import Finding
from workers.demo.company import Company, Customer
from workers.demo.page import Page
from workers.demo.stack import CERTIFICATE, KEY, RECORD
from workers.demo.watching import STALLED, Stalled
from workers.services.download_page import application
from workers.settings.settings import Settings
from workers.terminal import certificate as certificate_page
from workers.terminal import termination_preview
from workers.terminal.output import counted
from workers.wiring import bootstrap

#: Of each text that is shown, so many lines.
LINES = 4
#: Of a file in the record, so much of its name.
_NAME = 46
#: Seconds between two looks.
_LOOK = 0.2

_STAGE = text("""
    SELECT termination.id, termination.stage, termination.downloaded_at, mail.context ->> 'page' AS page,
           (SELECT max(step.last_error) FROM tenure.termination_steps AS step
             WHERE step.termination_id = termination.id AND step.state = 'failed') AS trouble,
           termination.stage = 'certified' AND NOT EXISTS (
               SELECT FROM tenure.email_messages AS letter
                WHERE letter.termination_id = termination.id AND letter.state IN ('pending', 'running')) AS over
      FROM tenure.terminations AS termination
      LEFT JOIN tenure.email_messages AS mail
        ON mail.termination_id = termination.id AND mail.state = 'done' AND mail.context ? 'page'
     WHERE termination.account_id = :account LIMIT 1""")
#: What the company knows of everybody else.
_OTHERS = tuple(
    text(f"SELECT count(*), md5(string_agg(kept::text, '' ORDER BY kept.id)) FROM tenure.{table} AS kept"
         " WHERE kept.account_id <> :account")
    for table in ("contacts", "ledger_entries", "statements")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it. `record` is the archive as the customer has it."""

    findings: list[Finding]
    record: Path
    certificate: Path
    #: The public key by which the certificate is checked.
    key: Path


def leaver(company: Company) -> Customer:
    """Who leaves: where there is a choice, one that can be read by many, and not the first, of which more is shown."""
    return min(company.customers, key=lambda each: (each is company.customers[0], each.people[0].language[:2] != "en"))


class Ending:
    def __init__(self, page: Page, settings: Settings, company: Company, folder: Path) -> None:
        self._page = page
        self._settings = settings
        self._customer = leaver(company)
        self._folder = folder
        # The page's own log would come between our lines.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        self._ports = bootstrap.ports(settings, Celery(broker=settings.broker_url))

    def run(self) -> Ended:
        """From the dry run to the certificate. Raises Stalled where a step fails, or nothing moves any more."""
        page, customer = self._page, self._customer
        page.heading("A customer leaves")
        account = self._dry_run()
        others = self._others(account)
        with page.step("in SQL") as said:
            with self._ports.database.transaction() as session:
                asked = TerminationsRequest(account=customer.ref)
                submit(session, asked, dedupe_key=f"contract-over-{customer.ref}")
            said.append(f"The contract of {customer.ref} is over: terminations.request.")
        began = monotonic()
        with page.step("the record") as said:
            sealed = self._until(account, lambda row: row.page is not None)
            content = self._downloaded(account, sealed.page)
            (self._folder / RECORD).write_bytes(content)
            said.append(f"announced by mail, fetched from its page, {len(content) / 1000:,.0f} kB; any unzip opens it:")
        manifest, problems = self._opened(content)
        with page.step("the erasure") as said:
            over = self._until(account, lambda row: row.over)
            said.append(
                "frozen, exported, delivered, erased, looked for again, verified, certified: "
                f"{monotonic() - began:.0f} s"
            )
        signed, holds = self._certificate(over.id)
        certificate_page.show(page.console, signed, key=self._ports.signer.current.public, copied=True)
        return Ended(
            [
                self._whole(manifest, problems, signed),
                self._gone(account),
                Finding.of(
                    "others are as they were",
                    "Contacts, ledger and statements of all others are the same, byte by byte.",
                    f"{sum(count for count, _ in others):,} rows compared",
                    None if self._others(account) == others else "rows of other customers have changed",
                ),
                holds,
            ],
            self._folder / RECORD,
            self._folder / CERTIFICATE,
            self._folder / KEY,
        )

    def _dry_run(self) -> UUID:
        with self._page.step("the dry run") as said, self._ports.database.transaction() as session:
            found = preview.find(session, self._customer.ref)
            if found is None:
                raise Stalled(f"There is no account {self._customer.ref} that could be terminated.")
            seen = preview.preview(self._ports, *found)
            said.append(f"tenure terminate {self._customer.ref} --dry-run:")
        termination_preview.show(self._page.console, seen)
        return found[0].id

    def _until(self, account: UUID, reached: Callable[[Row[Any]], bool]) -> Row[Any]:
        began = monotonic()
        while True:
            with self._ports.database.connection() as connection:
                row = connection.execute(_STAGE, {"account": account}).one_or_none()
            if row is not None and reached(row):
                return row
            if row is not None and row.stage in {"failed", "held", "cancelled"}:
                raise Stalled(f"The termination of {self._customer.ref} is {row.stage}: {row.trouble}")
            if monotonic() - began > STALLED:
                at = f"has come as far as {row.stage}" if row is not None else "has not begun"
                raise Stalled(f"The termination of {self._customer.ref} {at} in {STALLED:.0f} s. See the worker's log.")
            sleep(_LOOK)

    def _downloaded(self, account: UUID, link: str) -> bytes:
        """What the customer gets who follows the link in the mail, and presses the button."""
        with _served(self._ports) as port:
            path = urlsplit(link).path
            if _asked(port, "GET", path)[0] != 200:
                raise Stalled(f"The page of the record cannot be shown. See the logs in {self._folder / 'log'}.")
            _, headers, _ = _asked(port, "POST", path)
            status, _, content = _asked(port, "GET", headers.get("location", path))
            if status != 200:
                raise Stalled(
                    f"The record cannot be fetched (status {status}). See the logs in {self._folder / 'log'}."
                )
            # What has left is noted when the other side has it all.
            self._until(account, lambda row: row.downloaded_at is not None)
            return content

    def _opened(self, content: bytes) -> tuple[Manifest, list[str]]:
        """Show what is in it, as a person finds it; returns what is wrong with it too."""
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = verify(archive)
            tables = [each for each in found.manifest.files if each.kind is Kind.TABLE and each.rows]
            files = [each for each in found.manifest.files if each.kind is Kind.OBJECT]
            ledger = next(each for each in found.manifest.files if each.path.endswith("ledger_entries.csv"))
            for each in (*tables, *files):
                rows = "" if each.rows is None else counted(each.rows, "row")
                path = each.path if len(each.path) <= _NAME else f"…{each.path[1 - _NAME :]}"
                self._quiet(f"{path:<{_NAME}} {rows:>11} {each.bytes:>12,} bytes")
            self._page.console.print()
            self._quiet("README.txt", style="bold")
            said = archive.read("README.txt").decode("utf-8-sig").splitlines()
            for line in [line for line in said if line.strip()][:LINES]:
                self._quiet(line)
            self._page.console.print()
            self._quiet(f"{ledger.path}, some of its columns", style="bold")
            for row in islice(csv.DictReader(io.StringIO(archive.read(ledger.path).decode("utf-8-sig"))), LINES):
                self._quiet(
                    f"{row['occurred_at'][:16]}  {row['kind']:<8} {row['currency']} {row['amount']:>10}  "
                    f"{row['description']}"
                )
            self._page.console.print()
            return found.manifest, found.problems

    def _quiet(self, line: str, style: str = "dim") -> None:
        self._page.console.print(Text(f"  {line}", style=style), overflow="ellipsis", no_wrap=True, crop=True)

    def _certificate(self, termination: UUID) -> tuple[Signed, Finding]:
        """That of the erasure, written to a file; and whether it holds by the public key alone."""
        with self._ports.database.snapshot() as session:
            chain = publishing.chain(session)
        mine = next(
            each
            for each in chain
            if each.content["kind"] == CertificateKind.PURGE and each.content["termination"] == str(termination)
        )
        signer = self._ports.signer
        content = document(chain, whole=True, signer=signer.current)
        (self._folder / CERTIFICATE).write_bytes(content)
        (self._folder / KEY).write_text(signer.current.public.pem, encoding="utf-8")
        examined = examine(content, [signer.current.public])
        return mine, Finding.of(
            "the certificate holds",
            "By its public key alone, the chain of certificates is as it was issued.",
            f"{mine.content['name']}, {len(chain)} in the chain, none missing",
            *examined.problems,
        )

    def _whole(self, manifest: Manifest, problems: list[str], signed: Signed) -> Finding:
        """The archive is as it was written, and what was erased is what it holds."""
        with zipfile.ZipFile(self._folder / RECORD) as archive:
            held = sha256(archive.read("manifest.json")).hexdigest()
        rows = sum(each.rows or 0 for each in manifest.files if each.kind is Kind.TABLE)
        files = sum(each.kind is Kind.OBJECT for each in manifest.files)
        return Finding.of(
            "the record is whole",
            "Each file of the record has the hash in its manifest, and the certificate names that manifest.",
            f"{counted(rows, 'row')}, {counted(files, 'file')}",
            *problems,
            None if held in signed.body.decode() else "the certificate is about another record",
        )

    def _gone(self, account: UUID) -> Finding:
        """Every table, object, key and log is searched for the customer's name, its mail domain and its account.

        But for whom the last letters went to, which the last step forgets within the hour.
        """
        words = [self._customer.name, f"@{self._customer.ref.lower()}.example"]
        left: list[str] = []
        with self._ports.database.connection() as connection:
            tables = _tables(connection)
            for table in tables:
                named = text(
                    f"SELECT count(*) FROM (SELECT to_jsonb(stored) AS row FROM tenure.{table} AS stored) AS rows"
                    " CROSS JOIN LATERAL (SELECT CAST(row - 'correspondence' AS text) AS kept) AS text"
                    " WHERE row ->> 'termination_id' IS NULL AND (strpos(kept, :name) > 0 OR strpos(kept, :domain) > 0)"
                )
                found = connection.execute(named, {"name": words[0], "domain": words[1]}).scalar_one()
                left += [f"{found} rows of {table} name them"] * bool(found)
        objects = _objects_of(self._ports.objects, account)
        left += [f"{objects} objects are left"] * bool(objects)
        with redis.Redis.from_url(self._settings.broker_url) as broker:
            keys = sum(1 for mark in (account, self._customer.ref) for _ in broker.scan_iter(f"*{mark}*"))
        left += [f"{keys} keys are left"] * bool(keys)
        logs = sorted((self._folder / "log").glob("*.log"))
        named_in = [log.name for log in logs if any(word in log.read_text("utf-8", "replace") for word in words)]
        left += [f"{name} names them" for name in named_in]
        return Finding.of(
            "nothing of them is left",
            "No row, object, key or log names the customer any more.",
            f"{len(tables)} tables, the bucket, the broker and {len(logs)} logs searched; of the last letter, the "
            "addresses go within the hour",
            *left,
        )

    def _others(self, account: UUID) -> list[tuple[int, str]]:
        with self._ports.database.connection() as connection:
            return [tuple(connection.execute(each, {"account": account}).one()) for each in _OTHERS]


def _tables(connection: Connection) -> list[str]:
    names = text("SELECT tablename FROM pg_tables WHERE schemaname = 'tenure' ORDER BY tablename")
    return list(connection.execute(names).scalars())


def _objects_of(objects: ObjectStore, account: UUID) -> int:
    """Under whatever prefix; the record itself lies under the id of the termination until its own window is over."""
    return sum(str(account) in each.key for each in objects.list(""))


@contextmanager
def _served(ports: Ports) -> Iterator[int]:
    """The download page, as `tenure download-page` serves it, for as long as one customer needs it; its port."""
    config = uvicorn.Config(application(ports), port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise Stalled("The download page did not start.")
            sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def _asked(port: int, method: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except OSError as error:
        raise Stalled(f"The download page does not answer: {error.strerror or error}.") from error
    finally:
        connection.close()
