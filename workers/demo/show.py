"""`tenure demo`, from the first line on the screen to the last.

A stack of its own is started, a company is made, work is asked for in every way there is, and everything that came of
it is checked. Nothing is left running unless `keep` says so.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from tasks.crypto.keyring import Keyring
from tasks.failures import Failure
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from workers.adapters.objects.s3 import S3ObjectStore
from workers.demo import checks
from workers.demo.asking import Asked, send_from_another_program, sign_up
from workers.demo.checks import Finding, Flower, Scene
from workers.demo.collecting import Collecting
from workers.demo.company import Company, make
from workers.demo.counts import Broker, Counts
from workers.demo.ending import Ended, Ending, leaver
from workers.demo.interruption import Interrupted, signals
from workers.demo.page import Page
from workers.demo.planting import Planted, plant
from workers.demo.stack import INVOICE, STATEMENT, Stack, only_one
from workers.demo.watching import Expected, Stalled, watch
from workers.local.errors import EmbeddedServerError
from workers.settings.settings import Settings, parse
from workers.terminal.output import counted
from workers.wiring import bootstrap


def main(var: Path, *, accounts: int, keep: bool) -> int:
    """Run the demo in `var`/demo; returns the exit code: 0, 1 where something does not hold, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal cannot show is no reason to end.
            stream.reconfigure(errors="replace")
    # All that it speaks with is on this machine: a proxy of the environment has no business there.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"
    page = Page(Console(highlight=False))
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        with signals() as received, only_one(var):
            kept = False
            stack = Stack(var / "demo", keep=keep)
            try:
                good = _Demo(page, stack, accounts).run()
                kept = keep
            except Stalled as error:
                errors.print(f"tenure demo: {error}")
                good = False
            finally:
                if not kept:
                    with received.held(), page.step("the stack") as said:
                        stack.stop(impatient=received.again)
                        said.append(f"stopped; data, messages and logs stay in {stack.folder}")
            if kept:
                page.line(f"It keeps running. To stop it: tenure down --var {stack.folder}")
            return 0 if good else 1
    except Interrupted:
        return 130
    except EmbeddedServerError as error:
        errors.print(f"tenure demo: {error}")
        return 1


#: PDFs worth looking at: a statement with a late entry and as many lines as there are, and the last invoice.
_STATEMENT = text("""
    SELECT account_id, document_key
      FROM tenure.statements AS statement
     WHERE state = 'done'
     ORDER BY (SELECT count(*) FROM tenure.ledger_entries AS entry
                WHERE entry.account_id = statement.account_id AND entry.currency = statement.currency
                  AND entry.occurred_at < opens_at AND sequence > opening_cutoff AND sequence <= cutoff) DESC,
              line_count DESC, closing DESC LIMIT 1""")
_INVOICE = text("""
    SELECT invoice.account_id, document.document_key
      FROM tenure.invoice_documents AS document JOIN tenure.invoices AS invoice ON invoice.id = document.invoice_id
     WHERE document.state = 'done' ORDER BY invoice.number DESC LIMIT 1""")


@dataclass(frozen=True, slots=True)
class _Stage:
    """What there is once everything stands ready."""

    settings: Settings
    database: Database
    inbox: Path
    company: Company
    planted: Planted
    asked: Asked


class _Demo:
    def __init__(self, page: Page, stack: Stack, accounts: int) -> None:
        self._page = page
        self._stack = stack
        self._accounts = accounts
        self._began = monotonic()

    def run(self) -> bool:
        """The whole demo over a stack; whether everything holds."""
        page = self._page
        page.heading("Tenure · a company's background work")
        with page.step("the stack") as said:
            environment = self._stack.start()
            said.append(f"PostgreSQL, Valkey, S3, SMTP, worker, relay, Flower in {self._seconds():.0f} s")
        settings = parse(environment)
        inbox = Path(environment["TENURE_INBOX"])
        database = Database(settings.database_url)
        broker = Broker(settings.broker_url)
        try:
            with page.step("a company") as said:
                company = make(self._accounts, datetime.now(UTC).date())
                planted = plant(database, company, bootstrap.letterhead(settings).company)
                said.append(_described(planted))
            stage = _Stage(settings, database, inbox, company, planted, self._ask(settings, company))
            page.heading("Work is done")
            counts, seconds = watch(page.console, database, broker, _expected(stage))
            with database.connection() as connection:
                wrong = self._check(connection, stage)
                page.heading("What was done")
                for name, number, speed, note in _done(connection, planted, counts, seconds):
                    page.figure(name, number, speed, note)
            wrong += self._collect(stage)
            ended = self._end(stage)
            wrong += [finding for finding in ended.findings if not finding.holds]
            with database.connection() as connection:
                self._look(connection, stage, ended)
        finally:
            broker.close()
            database.engine.dispose()
        page.verdict([f"{finding.sentence} Not so: {finding.figure}." for finding in wrong], self._seconds())
        return not wrong

    def _seconds(self) -> float:
        return monotonic() - self._began

    def _ask(self, settings: Settings, company: Company) -> Asked:
        page = self._page
        page.heading("Work is asked for")
        with page.step("in SQL") as said:
            request = sign_up(settings.database_url)
            said.append(
                "The web tier signs up a customer and calls tenure.request('emails.send_account_set_up', …) in one "
                "transaction; another one is rolled back."
            )
        with page.step("by a message") as said:
            asked = send_from_another_program(settings.broker_url, company, request)
            said.append(
                f"A second process, with Celery alone, calls send_task: sessions.revoke ×{len(asked.revoked)}, "
                f"statements.send ×{len(asked.sent)}, emails.send_account_set_up ×{len(asked.welcomed)}, "
                "and one with wrong arguments."
            )
        with page.step("by the clock") as said:
            self._stack.start_beat()
            said.append("Beat says “look now”; PostgreSQL knows what is due.")
        return asked

    def _check(self, connection: Connection, stage: _Stage) -> list[Finding]:
        """Show what each check finds; those that do not hold."""
        self._page.heading("The result is checked")
        objects = S3ObjectStore(stage.settings)
        scene = Scene(
            connection=connection,
            objects=objects,
            keyring=Keyring(stage.settings.key_encryption_keys),
            s3=objects.client,
            bucket=stage.settings.s3_bucket,
            inbox=stage.inbox,
            flower=_flower(stage.settings),
            company=stage.company,
            asked=stage.asked,
        )
        wrong = []
        for finding in checks.everything(scene):
            self._page.finding(finding.name, finding.figure, holds=finding.holds)
            if not finding.holds:
                wrong.append(finding)
        return wrong

    def _collect(self, stage: _Stage) -> list[Finding]:
        """Invoice and charge some customers; what does not hold."""
        findings = Collecting(self._page, stage.settings, stage.database, stage.company, leaver(stage.company)).run()
        for finding in findings:
            self._page.finding(finding.name, finding.figure, holds=finding.holds)
        return [finding for finding in findings if not finding.holds]

    def _end(self, stage: _Stage) -> Ended:
        """Let one customer leave, and show what is left."""
        ended = Ending(self._page, stage.settings, stage.company, self._stack.folder).run()
        for finding in ended.findings:
            self._page.finding(finding.name, finding.figure, holds=finding.holds)
        return ended

    def _look(self, connection: Connection, stage: _Stage, ended: Ended) -> None:
        page, folder = self._page, self._stack.folder
        examples = [
            (name, folder / file)
            for name, file, row in (
                ("a statement", STATEMENT, connection.execute(_STATEMENT).one_or_none()),
                ("an invoice", INVOICE, connection.execute(_INVOICE).one_or_none()),
            )
            if row is not None and _keep(connection, stage.settings, row, folder / file)
        ]
        page.heading("Where to look")
        if self._stack.keep:
            page.place("Flower", f"{_flower(stage.settings).url}/tasks")
            page.place("", f"user and password: TENURE_FLOWER_… in {folder / 'tenure.env'}")
        else:
            page.place("Flower", "stays up, as everything does, with: tenure demo --keep")
        page.place("messages", f"{folder / stage.inbox.name}/")
        for name, file in examples:
            page.place(name, f"{file}")
        page.place("the record", f"{ended.record}")
        page.place("certificates", f"{ended.certificate}")
        page.place("", f"tenure certificate verify {ended.certificate} --key {ended.key}")
        page.place("logs", f"{folder / 'log'}/")


def _described(planted: Planted) -> str:
    return (
        f"{counted(planted.accounts, 'customer')} in {counted(planted.countries, 'country', 'countries')}, "
        f"{counted(planted.languages, 'language')} and {counted(planted.currencies, 'currency', 'currencies')}; "
        f"{planted.entries:,} ledger entries, {planted.late_entries} of them recorded late; "
        f"{counted(planted.contacts, 'contact')}; {planted.sessions:,} sessions, {planted.expired_sessions:,} too old"
    )


def _expected(stage: _Stage) -> Expected:
    """How long the bars are; the mails of requests are counted as they come."""
    readers = {
        customer.ref: sum(person.receives_statements for person in customer.people)
        for customer in stage.company.customers
    }
    statements = checks.expected_statements(stage.company)
    return Expected(
        statements=len(statements),
        mails=sum(readers[ref] for ref, _, _ in statements),
        sessions=stage.planted.expired_sessions,
        requests=stage.asked.requests,
        quarantined=1,
    )


def _flower(settings: Settings) -> Flower:
    return Flower(
        f"http://{settings.flower_address}:{settings.flower_port}",
        settings.flower_user or "",
        settings.flower_password or "",
    )


def _done(connection: Connection, planted: Planted, counts: Counts, seconds: float) -> list[tuple[str, str, str, str]]:
    """What was done, how much and how fast, by PostgreSQL's own times."""
    row = connection.execute(
        text("""
            SELECT (SELECT count(*) FROM tenure.statements WHERE state = 'done') AS statements,
                   (SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM tenure.statements)
                       AS statement_seconds,
                   (SELECT count(*) FROM tenure.email_messages WHERE state = 'done') AS mails,
                   (SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM tenure.email_messages)
                       AS mail_seconds,
                   (SELECT count(DISTINCT currency) FROM tenure.statements) AS currencies,
                   (SELECT 1000 * percentile_cont(0.5)
                                WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - created_at))
                      FROM tenure.job_requests WHERE state = 'done') AS wait""")
    ).one()

    def rate(number: int, over: float | None) -> str:
        return f"{number / float(over):,.0f} a second" if over else ""

    swept = planted.expired_sessions - counts.expired
    rows = [
        ("statements", row.statements, rate(row.statements, row.statement_seconds), f"in {row.currencies} currencies"),
        ("mails", row.mails, rate(row.mails, row.mail_seconds), "each once"),
        ("old sessions", swept, "", "gone after their 24 hours"),
        ("requests", counts.requests_done, f"{row.wait or 0:,.0f} ms", "from asking to effect, median"),
        ("in quarantine", counts.quarantined, "", "kept, with its reason"),
    ]
    return [(name, f"{number:,}", speed, note) for name, number, speed, note in rows] + [
        ("time at work", f"{seconds:,.1f} s", "", "")
    ]


def _keep(connection: Connection, settings: Settings, row: Row[Any], target: Path) -> bool:
    """Copy the document of a row with `account_id` and `document_key` to `target`."""
    try:
        with Session(connection) as session:
            keys = object_keys(session, [row.account_id])
        identity = keys.identity(row.account_id, Keyring(settings.key_encryption_keys))
        target.write_bytes(sealed_objects.get(S3ObjectStore(settings), row.document_key, identity))
    except Failure:
        return False  # a check has said so
    return True
