"""What was asked for against what came out: rows, objects, messages. The one checker of the acceptance tests."""

from __future__ import annotations

import email.policy
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage as MIMEMessage
from email.parser import BytesHeaderParser, BytesParser
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.crypto.keyring import Keyring
from tasks.storage import sealed_objects
from tests.support.rows import vault
from tests.support.servers.processes import Processes, Running, eventually
from tests.support.time.deadlines import deadline
from workers.adapters.clock_skew import correct_clock_skew
from workers.adapters.objects.s3 import S3ObjectStore
from workers.local import stack as local_stack
from workers.settings.settings import parse

#: Accounts with one contact each, and in the month that closed last an entry of each kind that cancel each other out:
#: exactly one statement each, whatever the day of the test.
SEED = text("""
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, address, currency, time_zone, period_start)
        SELECT :prefix || n, :prefix || 'GmbH ' || n, ARRAY['Gasse ' || n, '1010 Wien'], 'EUR', 'UTC',
               (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date
          FROM generate_series(1, :count) AS n
        RETURNING id, ref, period_start
    ), contacts AS (
        INSERT INTO tenure.contacts (account_id, name, email, language, receives_statements)
        SELECT id, 'Zoë ' || ref, ref || '@customer.example', 'de', true FROM made
    ), charges AS (
        INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
        SELECT id, 'charge', 'EUR', 12345, 'Miete ' || ref, period_start::timestamptz + interval '3 days' FROM made
        RETURNING 1
    )
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, 'payment', 'EUR', -12345, 'Zahlung ' || ref, period_start::timestamptz + interval '9 days' FROM made""")


def customers(database: Database, count: int, *, prefix: str = "kunde-") -> None:
    """`count` accounts for each of which exactly one statement is due."""
    with database.connection() as connection:
        connection.execute(SEED, {"count": count, "prefix": prefix})


@dataclass(frozen=True)
class Outcome:
    """Looks at one database, one inbox and one object store."""

    database: Database
    inbox: Path
    addresses: Mapping[str, str]

    def query(self, sql: str, **values: Any) -> list[Any]:
        with self.database.connection() as connection:
            return list(connection.execute(text(sql), values))

    def one(self, sql: str, **values: Any) -> Any:
        return self.query(sql, **values)[0][0]

    def states(self, table: str) -> dict[str, int]:
        return {row.state: row.n for row in self.query(f"SELECT state, count(*) AS n FROM tenure.{table} GROUP BY 1")}

    def statements_done(self) -> int:
        return self.states("statements").get("done", 0)

    def mails_sent(self) -> int:
        return self.states("email_messages").get("done", 0)

    def quiet(self) -> bool:
        """Nothing is due, held or awaited in any work table."""
        tables = ("statements", "invoice_documents", "email_messages", "job_requests")
        return not any({"pending", "running"} & set(self.states(table)) for table in tables)

    def await_statements(self, count: int, *, seconds: float = 90) -> None:
        """Until so many statements are done and their mails have left or are past saving."""
        eventually(
            lambda: self.statements_done() == count and self.quiet(),
            f"{count} statements done and everything quiet",
            seconds=seconds,
        )

    def copies(self) -> Counter[str]:
        """How often each Message-ID is in the inbox."""
        parser = BytesHeaderParser(policy=email.policy.default)
        found: Counter[str] = Counter()
        for path in self.inbox.glob("*.eml"):
            found[str(parser.parsebytes(path.read_bytes())["Message-ID"]).strip("<>")] += 1
        return found

    def messages(self) -> list[MIMEMessage]:
        parser = BytesParser(MIMEMessage, policy=email.policy.default)
        return [parser.parsebytes(path.read_bytes()) for path in sorted(self.inbox.glob("*.eml"))]

    @cached_property
    def objects(self) -> Any:
        client = boto3.client(
            "s3",
            endpoint_url=self.addresses["TENURE_S3_ENDPOINT"],
            region_name=self.addresses["TENURE_S3_REGION"],
            aws_access_key_id=self.addresses["TENURE_S3_ACCESS_KEY"],
            aws_secret_access_key=self.addresses["TENURE_S3_SECRET_KEY"],
            config=Config(retries={"total_max_attempts": 3}, read_timeout=10),
        )
        correct_clock_skew(client)
        return client

    def document(self, key: str) -> bytes:
        """What lies sealed under `key`."""
        keyring = Keyring(self.addresses["TENURE_KEY_ENCRYPTION_KEYS"])
        identity = vault.identity(self.database, keyring, vault.account_of(key))
        return sealed_objects.get(S3ObjectStore(parse(self.addresses)), key, identity)

    def stored(self, accounts: Collection[str], prefix: str = "statements/") -> set[str]:
        """The keys of all documents of these accounts, whether a row knows them or not."""
        pages = self.objects.get_paginator("list_objects_v2").paginate(
            Bucket=self.addresses["TENURE_S3_BUCKET"], Prefix=prefix
        )
        keys = (item["Key"] for page in pages for item in page.get("Contents", ()))
        return {key for key in keys if key.split("/")[1] in accounts}

    def is_whole(self, statements: int, *, may_be_unknown: bool = False) -> list[str]:
        """Every statement once: one row, one document, one mail row, one message. Returns the unknown Message-IDs.

        An unknown message is in the inbox once or not at all; all others are there exactly once.
        """
        assert self.states("statements") == {"done": statements}
        rows = self.query("SELECT id, account_id, document_key, document_sha256 FROM tenure.statements")
        with ThreadPoolExecutor(4) as pool:
            hashes = pool.map(lambda row: hashlib.sha256(self.document(row.document_key)).digest(), rows)
            assert list(hashes) == [bytes(row.document_sha256) for row in rows], "a document is not the recorded one"
        assert self.stored({str(row.account_id) for row in rows}) == {row.document_key for row in rows}

        mails = self.query("SELECT message_id, state, dedupe_key FROM tenure.email_messages")
        about = Counter(row.dedupe_key.split(":")[1] for row in mails if row.dedupe_key.startswith("statement:"))
        assert about == Counter(str(row.id) for row in rows), "not one mail row for each statement"
        unknown = [row.message_id for row in mails if row.state == "unknown"]
        assert {row.state for row in mails} <= {"done", "unknown"}, self.states("email_messages")
        assert may_be_unknown or not unknown, f"{len(unknown)} messages are unknown"
        copies = self.copies()
        assert copies.keys() <= {row.message_id for row in mails}, "a message that no row knows"
        assert {id_: copies[id_] for id_ in unknown if copies[id_] > 1} == {}
        sent = {row.message_id: copies[row.message_id] for row in mails if row.state == "done"}
        assert set(sent.values()) <= {1}, f"lost or doubled: { ({k: n for k, n in sent.items() if n != 1}) }"
        return unknown

    def fetched(self, page: Running, ref: str) -> bytes:
        """The record as the customer gets it who follows the link in the mail, and presses the button."""
        found = self.one(
            """SELECT mail.context ->> 'page' FROM tenure.email_messages AS mail
                 JOIN tenure.terminations AS termination ON termination.id = mail.termination_id
                WHERE mail.context ? 'page' AND termination.correspondence ->> 'account_ref' = :ref LIMIT 1""",
            ref=ref,
        )
        address = f"http://127.0.0.1:{page.environment['TENURE_DOWNLOAD_PORT']}{urlsplit(found).path}"
        with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=deadline(60)) as answer:
            return bytes(answer.read())

    def attempts(self, table: str) -> dict[int, int]:
        """How many rows took how many attempts."""
        return {row[0]: row[1] for row in self.query(f"SELECT attempts, count(*) FROM tenure.{table} GROUP BY 1")}


@dataclass(frozen=True)
class Stack:
    """Servers of one test's own: each can be killed and started again on the same port."""

    directory: Path
    environment: dict[str, str]

    def kill(self, name: str) -> None:
        """SIGKILL; PostgreSQL's backends end with their postmaster."""
        local_stack.stop(self.directory, names=(name,), quick=True)

    def start(self, name: str) -> None:
        assert local_stack.start(self.directory, names=(name,)).environment.items() <= self.environment.items()

    def pid(self, name: str) -> int:
        return local_stack.running(self.directory)[name]


def send_task(processes: Processes, *calls: tuple[str, dict[str, Any]]) -> None:
    """Publish by plain Celery, from a process that imports nothing of ours: `("statements.send", {"kwargs": ...})`."""
    program = (
        "import json, sys; from celery import Celery\n"
        "app = Celery(broker=sys.argv[1])\n"
        "for name, options in json.loads(sys.argv[2]):\n"
        "    app.send_task(name, **options)\n"
        "assert not {'models', 'tasks', 'workers'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, processes.addresses["TENURE_BROKER_URL"], json.dumps(calls)],
        check=True,
        timeout=deadline(60),
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
