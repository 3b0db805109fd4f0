"""Whether the result is right: each check looks at what there is, by a way of its own, and says one sentence.

None of them asks the code that did the work. `everything` runs all; a test runs them one by one on what was tampered
with.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import unicodedata
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from email import message_from_bytes
from email.message import Message
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from scheduler.timetable import TIMETABLE
from tasks.crypto.keyring import Keyring
from tasks.failures import Permanent
from tasks.ports.objects import ObjectStore
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from workers.demo.asking import CHANGED_ITS_MIND, SIGN_UP_WORDS, SIGNED_UP, Asked
from workers.demo.calendar import billing_date
from workers.demo.company import Company

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

#: So many documents are read back as text, where pypdf is at hand.
SAMPLE = 12
#: So many messages in the broker are few, however few rows there are; and of many rows, one message for so many.
FEW_MESSAGES = 100
ROWS_A_MESSAGE = 5
#: How long Flower may take to receive the events of the last task.
FLOWER_EVENTS_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `sentence` is what should be true; `figure` is what was counted or what is wrong."""

    name: str
    sentence: str
    figure: str
    holds: bool

    @classmethod
    def of(cls, name: str, sentence: str, good: str, *wrong: str | None) -> Finding:
        """`wrong` are the complaints; without any, it holds and shows `good`."""
        complaints = [complaint for complaint in wrong if complaint]
        return cls(name, sentence, "; ".join(complaints) or good, not complaints)


@dataclass(frozen=True, slots=True)
class Flower:
    url: str
    user: str
    password: str

    def tasks(self) -> dict[str, dict[str, Any]]:
        """All task messages that Flower has seen, by id."""
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            f"{self.url}/api/tasks?limit=100000", headers={"Authorization": f"Basic {credentials}"}
        )
        # A proxy of the environment has no business with loopback.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            tasks: dict[str, dict[str, Any]] = json.load(answer)
        return tasks


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the checks look at."""

    connection: Connection
    objects: ObjectStore
    #: What opens the documents.
    keyring: Keyring
    s3: S3Client
    bucket: str
    inbox: Path
    flower: Flower
    company: Company
    asked: Asked


def everything(scene: Scene) -> Iterator[Finding]:
    """Every check in turn. One that cannot look has not found that all is well."""
    for check in CHECKS:
        try:
            yield check(scene)
        except Exception as error:
            name, sentence = _said(check)
            yield Finding(name, sentence, f"could not be checked: {type(error).__name__}: {error}", False)


def _said(check: Callable[[Scene], Finding]) -> tuple[str, str]:
    name = check.__name__.replace("_", " ")
    return name, (check.__doc__ or name).partition("\n")[0]


def _finding(check: Callable[..., Finding], good: str, *wrong: str | None) -> Finding:
    return Finding.of(*_said(check), good, *wrong)


def _some(number: int, what: str) -> str | None:
    return f"{number:,} {what}" if number else None


_LEDGER = text("""
    WITH sums AS (
        SELECT statement.id, coalesce(sum(amount) FILTER (WHERE stated), 0) AS opening,
               coalesce(sum(amount) FILTER (WHERE NOT stated), 0) AS lines,
               count(*) FILTER (WHERE NOT stated) AS line_count, sum(amount) AS closing
          FROM tenure.statements AS statement
          JOIN tenure.ledger_entries AS entry USING (account_id, currency),
               LATERAL (SELECT occurred_at < opens_at AND sequence <= opening_cutoff AS stated) AS earlier
         WHERE occurred_at < closes_at AND sequence <= cutoff
         GROUP BY statement.id
    ), chained AS (
        SELECT id, opening, period_start, lag(closing) OVER earlier AS closing_before,
               lag(period_end) OVER earlier AS end_before
          FROM tenure.statements WINDOW earlier AS (PARTITION BY account_id, currency ORDER BY period_start)
    )
    SELECT count(*) AS statements,
           count(*) FILTER (WHERE statement.opening IS DISTINCT FROM sums.opening) AS opening,
           count(*) FILTER (WHERE statement.opening + sums.lines IS DISTINCT FROM statement.closing) AS lines,
           count(*) FILTER (WHERE statement.line_count IS DISTINCT FROM sums.line_count) AS line_count,
           count(*) FILTER (WHERE statement.closing IS DISTINCT FROM sums.closing) AS closing,
           count(*) FILTER (WHERE chained.opening <> chained.closing_before
                               OR chained.period_start < chained.end_before) AS chain
      FROM tenure.statements AS statement JOIN chained USING (id) LEFT JOIN sums USING (id)""")


def statements_equal_ledger(scene: Scene) -> Finding:
    """Opening balance and lines make the closing balance, and that is the ledger's, to the last minor unit."""
    found = scene.connection.execute(_LEDGER).one()
    return _finding(
        statements_equal_ledger,
        f"{found.statements:,} statements",
        "there is no statement" if not found.statements else None,
        _some(found.opening, "open with another balance than the ledger's"),
        _some(found.lines, "do not add up"),
        _some(found.line_count, "have too few or too many lines"),
        _some(found.closing, "close with another balance than the ledger's"),
        _some(found.chain, "do not begin where the one before ended"),
    )


def one_statement_a_period(scene: Scene) -> Finding:
    """Each account, currency and closed period with anything to say has one statement, and there is no other."""
    connection = scene.connection
    made = Counter(
        (row.ref, row.currency, row.period_start)
        for row in connection.execute(
            text("""SELECT ref, statement.currency, statement.period_start FROM tenure.statements AS statement
                      JOIN tenure.accounts AS account ON account.id = statement.account_id""")
        )
    )
    wanted = expected_statements(scene.company)
    unfinished = connection.execute(text("SELECT count(*) FROM tenure.statements WHERE state <> 'done'")).scalar_one()
    return _finding(
        one_statement_a_period,
        f"{len(made):,} of {len(wanted):,}",
        _some(len(wanted - made.keys()), "are missing"),
        _some(len(made.keys() - wanted), "nobody expects"),
        _some(made.total() - len(made), "are there twice"),
        _some(unfinished, "are not done"),
    )


def expected_statements(company: Company) -> set[tuple[str, str, date]]:
    """Which statements there must be, `(ref, currency, first day)`: counted in local days, not in the database."""
    wanted: set[tuple[str, str, date]] = set()
    for customer in company.customers:
        zone = ZoneInfo(customer.time_zone)
        # The customer's own calendar: periods begin on its billing day; the last one to begin is still open.
        starts, day = [customer.first_period], customer.first_period
        while True:
            year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
            day = billing_date(year, month, customer.billing_day)
            starts.append(day)
            if day > company.today:
                break
        for currency in {entry.currency for entry in customer.entries}:
            days = sorted(
                (entry.occurred_at.astimezone(zone).date(), entry.amount)
                for entry in customer.entries
                if entry.currency == currency
            )
            for first, end in pairwise(starts[:-1]):
                opening = sum(amount for day, amount in days if day < first)
                if opening or any(first <= day < end for day, _ in days):
                    wanted.add((customer.ref, currency, first))
    return wanted


def documents_are_stored(scene: Scene) -> Finding:
    """Each statement has one PDF in S3, with the SHA-256 that its row records, and there is no other."""
    rows = scene.connection.execute(
        text("""
            SELECT account_id, document_key, document_sha256, document_bytes
              FROM tenure.statements WHERE state = 'done'""")
    ).all()
    keys = [row.document_key for row in rows]
    listed = _listed(scene.s3, scene.bucket)

    opened = _opener(scene, [row.account_id for row in rows])

    def differs(row: Any) -> bool:
        try:
            body = opened(row)
        except Permanent:
            return True
        return (
            not body.startswith(b"%PDF-")
            or len(body) != row.document_bytes
            or hashlib.sha256(body).digest() != row.document_sha256
        )

    present = [row for row in rows if row.document_key in listed]
    with ThreadPoolExecutor(max_workers=4) as pool:
        different = sum(pool.map(differs, present))
    return _finding(
        documents_are_stored,
        f"{len(listed):,} documents, {sum(row.document_bytes for row in rows) / 1e6:,.1f} MB",
        _some(len(rows) - len(present), "are missing"),
        _some(len(keys) - len(set(keys)), "share one"),
        _some(len(listed - set(keys)), "belong to no statement"),
        _some(different, "are not what their rows record"),
    )


def _opener(scene: Scene, accounts: Sequence[UUID]) -> Callable[[Any], bytes]:
    """Reads the document of a row with `account_id` and `document_key`, from any thread. Raises as `sealed_objects`."""
    with Session(scene.connection) as session:
        keys = object_keys(session, accounts)

    def opened(row: Any) -> bytes:
        return sealed_objects.get(scene.objects, row.document_key, keys.identity(row.account_id, scene.keyring))

    return opened


def _listed(s3: S3Client, bucket: str) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="statements/")
    return {str(item["Key"]) for page in pages for item in page.get("Contents", [])}


def documents_say_the_balance(scene: Scene) -> Finding:
    """The text of a PDF says the closing balance that the ledger has."""
    try:
        from pypdf import PdfReader  # noqa: PLC0415 - for developers; production does not install it
    except ImportError:
        return _finding(documents_say_the_balance, "not read: pypdf is not installed")
    rows = scene.connection.execute(
        text("""
            SELECT account_id, document_key,
                   (SELECT sum(amount) FROM tenure.ledger_entries AS entry
                     WHERE entry.account_id = statement.account_id AND entry.currency = statement.currency
                       AND entry.occurred_at < closes_at AND sequence <= cutoff) AS balance
              FROM tenure.statements AS statement WHERE state = 'done'
             ORDER BY sha256(convert_to(document_key, 'UTF8')) LIMIT :sample"""),
        {"sample": SAMPLE},
    ).all()
    silent = 0
    opened = _opener(scene, [row.account_id for row in rows])
    for row in rows:
        pages = PdfReader(io.BytesIO(opened(row))).pages
        silent += abs(int(row.balance)) not in _figures("\n".join(page.extract_text() for page in pages))
    return _finding(
        documents_say_the_balance, f"{len(rows)} read back", _some(silent, f"of {len(rows)} read do not say it")
    )


def _figures(words: str) -> set[int]:
    """Every number in a text, in minor units: whatever its digits and separators are."""
    return {
        int("".join(str(unicodedata.digit(letter)) for letter in figure if letter.isdigit()))
        for figure in re.findall(r"\d(?:[\d.,'’٫٬\u00a0\u202f]*\d)?", words)
    }


def every_mail_once(scene: Scene) -> Finding:
    """Each message is in the inbox exactly once, went to its one recipient, and carries the stored statement."""
    rows = scene.connection.execute(
        text("""
            SELECT mail.message_id, mail.to_address, mail.state, statement.document_sha256
              FROM tenure.email_messages AS mail
              LEFT JOIN tenure.statements AS statement ON statement.document_key = mail.attachments -> 0 ->> 'key'""")
    ).all()
    sent = {row.message_id: row for row in rows if row.state == "done"}
    states = Counter(row.state for row in rows if row.state != "done")
    arrived: Counter[str] = Counter()
    astray = altered = 0
    for file in scene.inbox.glob("*.eml"):
        message = message_from_bytes(file.read_bytes())
        message_id = str(message["Message-ID"]).strip().strip("<>")
        arrived[message_id] += 1
        row = sent.get(message_id)
        if row is not None:
            envelope = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            astray += envelope["rcpt_tos"] != [row.to_address]
            altered += [row.document_sha256] * (row.document_sha256 is not None) != _attached(message)
    return _finding(
        every_mail_once,
        f"{arrived.total():,} messages",
        "there is no message" if not rows else None,
        _some(len(sent.keys() - arrived.keys()), "were sent and did not arrive"),
        _some(arrived.total() - len(arrived), "arrived more than once"),
        _some(len(arrived.keys() - {row.message_id for row in rows}), "nobody knows"),
        _some(astray, "went to someone else"),
        _some(altered, "carry another document than the stored one"),
        _some(states.pop("unknown", 0), "may or may not have been sent (unknown)"),
        _some(states.total(), "were not sent"),
    )


def _attached(message: Message) -> list[bytes]:
    """The SHA-256 of each PDF in a message."""
    parts = [part.get_payload(decode=True) for part in message.walk() if part.get_content_type() == "application/pdf"]
    return [hashlib.sha256(part).digest() for part in parts if isinstance(part, bytes)]


def no_old_session(scene: Scene) -> Finding:
    """No session over 24 hours can be read or is stored, those of revoked accounts are gone, all others are there."""
    found = scene.connection.execute(
        text("""
            SELECT (SELECT count(*) FROM tenure.sessions) AS stored,
                   (SELECT count(*) FROM tenure.sessions WHERE created_at <= now() - interval '24 hours') AS old,
                   (SELECT count(*) FROM tenure.live_sessions
                     WHERE created_at <= now() - interval '24 hours') AS readable,
                   (SELECT count(*) FROM tenure.sessions AS session
                      JOIN tenure.accounts AS account ON account.id = account_id
                     WHERE ref = ANY (:revoked)) AS revoked,
                   (SELECT count(*) FROM tenure.accounts AS account
                     WHERE NOT ref = ANY (:without)
                       AND NOT EXISTS (SELECT FROM tenure.live_sessions WHERE account_id = account.id)) AS robbed"""),
        {"revoked": list(scene.asked.revoked), "without": [*scene.asked.revoked, SIGNED_UP]},
    ).one()
    return _finding(
        no_old_session,
        f"{found.stored:,} live ones left",
        _some(found.readable, "older ones can be read"),
        _some(found.old, "older ones are stored"),
        _some(found.revoked, "of revoked accounts are left"),
        _some(found.robbed, "accounts have lost theirs too soon"),
    )


def requests_are_done(scene: Scene) -> Finding:
    """Each request has had its effect, whichever way it came in."""
    rows = scene.connection.execute(text("SELECT kind, state, source FROM tenure.job_requests")).all()
    undone = sum(row.state != "done" for row in rows)
    missing = scene.asked.requests - len(rows)
    welcome = scene.connection.execute(
        text("""SELECT count(*) FROM tenure.email_messages AS mail JOIN tenure.accounts AS account
                    ON account.id = mail.account_id WHERE ref = :ref AND message = 'account-set-up'"""),
        {"ref": SIGNED_UP},
    ).scalar_one()
    sources = Counter(row.source for row in rows)
    return _finding(
        requests_are_done,
        f"{sources['sql']} by SQL, {sources['queue']} by the queue",
        _some(max(0, missing), "are missing"),
        _some(max(0, -missing), "more than were made"),
        _some(undone, "are not done"),
        f"the new customer was welcomed {welcome} times" if welcome != 1 else None,
    )


def rolled_back_left_nothing(scene: Scene) -> Finding:
    """What the web tier rolled back has left no account, no request and no mail."""
    found = scene.connection.execute(
        text("""
            SELECT (SELECT count(*) FROM tenure.accounts WHERE ref = :ref) AS accounts,
                   (SELECT count(*) FROM tenure.job_requests
                     WHERE args ->> 'account' = :ref OR dedupe_key LIKE '%' || :ref) AS requests,
                   (SELECT count(*) FROM tenure.email_messages
                     WHERE to_address LIKE '%@' || lower(:ref) || '.example') AS mails"""),
        {"ref": CHANGED_ITS_MIND},
    ).one()
    return _finding(
        rolled_back_left_nothing,
        "nothing",
        _some(found.accounts, "account"),
        _some(found.requests, "request"),
        _some(found.mails, "mail"),
    )


def wrong_message_is_kept(scene: Scene) -> Finding:
    """The message with wrong arguments is in quarantine, once, with its reason, and no other is."""
    rows = scene.connection.execute(text("SELECT message_id, reason FROM tenure.quarantine")).all()
    ours = [row for row in rows if row.message_id == scene.asked.wrong]
    return _finding(
        wrong_message_is_kept,
        ours[0].reason if ours else "",
        "it is not there" if not ours else None,
        "it has no reason" if ours and not ours[0].reason else None,
        _some(len(rows) - len(ours), "others are there"),
    )


def few_task_messages(scene: Scene) -> Finding:
    """The broker saw some tens of task messages beside the clock's ticks, not one for each customer."""
    rows = scene.connection.execute(
        text("SELECT (SELECT count(*) FROM tenure.statements) + (SELECT count(*) FROM tenure.email_messages)")
    ).scalar_one()
    tasks = _settled_tasks(scene.flower)
    seen = len(tasks)
    most = max(FEW_MESSAGES, rows // ROWS_A_MESSAGE) + _ticks(tasks)
    return _finding(
        few_task_messages,
        f"{seen} messages for {rows:,} documents and mails",
        f"{seen} messages for {rows:,} documents and mails" if seen > most else None,
        "Flower has seen none" if not seen else None,
    )


def _ticks(tasks: Mapping[str, Mapping[str, Any]]) -> int:
    """How many messages Beat sent while these came in, by the timetable: more with time, and with nothing else."""
    received = [task["received"] for task in tasks.values() if task.get("received")]
    lasted = max(received) - min(received) if received else 0
    return sum(int(lasted / entry.every.total_seconds()) for entry in TIMETABLE)


def flower_shows_no_personal_data(scene: Scene) -> Finding:
    """In Flower, no argument and no result shows a name, an address or an amount."""
    tasks = _settled_tasks(scene.flower)
    whole = json.dumps(tasks, ensure_ascii=False)
    named = sum(word in whole for word in scene.company.words | SIGN_UP_WORDS)
    arguments = sum(
        task.get("args") not in (None, "()", "[]") or task.get("kwargs") not in (None, "{}") for task in tasks.values()
    )
    results = sum(not _small_counts(task.get("result")) for task in tasks.values())
    return _finding(
        flower_shows_no_personal_data,
        f"{len(scene.company.words):,} names and addresses looked for",
        _some(named, "names or addresses stand there"),
        _some(arguments, "tasks show arguments"),
        _some(results, "results are more than small counts"),
    )


def _small_counts(result: object) -> bool:
    """Whether a result is of the shape `{"sent": 97}`, in which nothing personal has room."""
    if result in (None, "", "None"):
        return True
    try:
        value = ast.literal_eval(str(result))
    except (ValueError, SyntaxError):
        return False
    return isinstance(value, dict) and all(
        isinstance(key, str) and key.isidentifier() and type(number) is int for key, number in value.items()
    )


def _settled_tasks(flower: Flower) -> dict[str, dict[str, Any]]:
    """What Flower has seen, when it has heard the end of all that it heard the beginning of."""
    deadline = monotonic() + FLOWER_EVENTS_TIMEOUT.total_seconds()
    while True:
        tasks = flower.tasks()
        if all(task.get("state") in {"SUCCESS", "FAILURE", "REVOKED", "REJECTED"} for task in tasks.values()):
            return tasks
        if monotonic() > deadline:
            return tasks
        sleep(0.3)


CHECKS: Sequence[Callable[[Scene], Finding]] = (
    statements_equal_ledger,
    one_statement_a_period,
    documents_are_stored,
    documents_say_the_balance,
    every_mail_once,
    no_old_session,
    requests_are_done,
    rolled_back_left_nothing,
    wrong_message_is_kept,
    few_task_messages,
    flower_shows_no_personal_data,
)
