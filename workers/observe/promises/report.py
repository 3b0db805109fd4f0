"""`tenure policy`: each promise of the privacy policy, kept, broken or not measurable, with the figure that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
import msgspec
import redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from email_templates.catalogue import MESSAGES
from models.base.unit_of_work import Database
from models.schema.security_audit import DEADLINE, SILENCE
from models.sessions.session import LIFETIME
from tasks.client.requests import KINDS, fields
from workers.celery.routing import QUEUES
from workers.observe.promises.evidence import (
    COUNTED,
    NEW,
    Evidence,
    Installation,
    Verdict,
    how_many,
    judged,
    unfinished,
)
from workers.observe.promises.mail import (
    details_are_asked_after,
    foreign_links_are_text,
    messages_follow_their_reader,
    messages_load_nothing,
)
from workers.observe.promises.pages import pages_set_no_cookie
from workers.observe.promises.reminders import reminders_leave_once_and_in_time
from workers.observe.promises.terminations import (
    all_data_are_mapped,
    connections_are_configured,
    disclosures_were_approved,
    processors_are_listed,
    records_are_purged,
)
from workers.settings import session_stores
from workers.settings.session_stores import Store
from workers.settings.settings import Mode, Settings, settings
from workers.terminal.options import as_json
from workers.terminal.output import print_json, reports_errors

#: How long a closed period may wait for its statement, and a statement's mail for the mail server's answer.
STATEMENT_GRACE = timedelta(hours=1)
#: An expired session is gone from storage within this much more (S2).
SWEEP_GRACE = timedelta(hours=1)
STORED_AT_MOST = LIFETIME + SWEEP_GRACE
#: How long a payment may be unknown, and a day wait for its comparison with the provider.
RECONCILIATION_GRACE = timedelta(days=1)
#: How many waiting messages of a queue are looked at.
SAMPLE = 1_000


#: From each kind of message to the next one by the index: a look for each kind, however many messages there are.
KINDS_OF_MESSAGE = text("""
    WITH RECURSIVE kind AS (
        SELECT min(message) AS message FROM tenure.email_messages
        UNION ALL
        SELECT (SELECT min(message) FROM tenure.email_messages AS later WHERE later.message > kind.message)
          FROM kind WHERE kind.message IS NOT NULL)
    SELECT message FROM kind WHERE message IS NOT NULL""")


@dataclass(frozen=True, slots=True)
class Promise:
    number: str
    clause: str
    measure: Callable[[Installation], Evidence]


def messages_carry_ids_only(installation: Installation) -> Evidence:
    """P1.3: what waits in the broker names a task and, for requests, the fields that their class declares."""
    allowed = {kind: set(fields(cls)) | {"dedupe_key", "version"} for kind, cls in KINDS.items()}
    looked = wrong = 0
    try:
        client = redis.Redis.from_url(
            installation.settings.broker_url, socket_connect_timeout=5, socket_timeout=5, decode_responses=False
        )
        with client:
            for queue in QUEUES:
                waiting: Any = client.lrange(queue, 0, SAMPLE - 1)
                looked += len(waiting)
                wrong += sum(not _declared(raw, allowed) for raw in waiting)
    except (redis.RedisError, OSError):
        return Evidence(Verdict.UNKNOWN, "The broker does not answer: see tenure doctor.")
    return judged(wrong == 0, f"{looked} messages wait in the broker, {wrong} with more than declared ids")


def _declared(raw: bytes, allowed: Mapping[str, set[str]]) -> bool:
    """Whether a message as it lies in Redis has no arguments but those that its kind declares."""
    try:
        envelope = msgspec.json.decode(raw)
        headers = envelope["headers"]
        body = envelope["body"]
        content = body if isinstance(body, list) else msgspec.json.decode(_unbase64(body))
        args, kwargs = content[0], content[1]
        return not args and set(kwargs) <= allowed.get(headers["task"], set())
    except (msgspec.DecodeError, KeyError, TypeError, IndexError, ValueError):
        return False


def _unbase64(body: str) -> bytes:
    return msgspec.convert(body, bytes)


def statements_are_sent(installation: Installation) -> Evidence:
    """P3.1d: every closed period has its statement, and every statement's mail was taken over by the mail server."""
    row = installation.connection.execute(
        text(f"""
            SELECT (SELECT count(*) FROM tenure.accounts
                     WHERE status = 'active' AND statement_due_at < now() - :patience) AS unplanned,
                   (SELECT coalesce(sum(value), 0)::bigint FROM tenure.counters
                     WHERE task IN ('statements.render', 'statements.render_long') AND outcome = 'rendered') AS done,
                   (SELECT count(*) FROM ({unfinished("tenure.statements")}) AS late) AS stuck,
                   (SELECT count(*) FROM ({unfinished("tenure.email_messages", "message")}) AS wanting
                     WHERE message = 'statement-ready') AS unsent"""),
        {"patience": STATEMENT_GRACE},
    ).one()
    return judged(
        row.unplanned == row.stuck == row.unsent == 0,
        f"{row.done} statements made, {row.stuck} late or failed, {row.unsent} of their mails not delivered, "
        f"{row.unplanned} closed periods without one",
    )


def statements_agree_with_the_ledger(installation: Installation) -> Evidence:
    """P3.1d: the closing balance of each statement that was made since yesterday is what its ledger says."""
    row = installation.connection.execute(
        text("""
            WITH latest AS (
                SELECT account_id, currency, cutoff, closes_at, closing
                  FROM tenure.statements WHERE finished_at > now() - :new AND state = 'done')
            SELECT count(*) AS statements, count(*) FILTER (WHERE closing <> coalesce((
                SELECT sum(amount) FROM tenure.ledger_entries AS entry
                 WHERE entry.account_id = latest.account_id AND entry.currency = latest.currency
                   AND sequence <= cutoff AND occurred_at < closes_at), 0)) AS wrong
              FROM latest"""),
        {"new": NEW},
    ).one()
    return judged(
        row.wrong == 0,
        f"{row.statements} statements made since yesterday compared with the ledger, {row.wrong} differ",
    )


def payments_are_collected_once(installation: Installation) -> Evidence:
    """P3.1d: no invoice was charged twice, and provider and ledger were compared every night and agree (B21, B24)."""
    row = installation.connection.execute(
        text(f"""
            WITH charged AS MATERIALIZED (
                SELECT id, invoice_id FROM tenure.collection_attempts
                 WHERE finished_at > now() - :new AND outcome = 'charged')
            SELECT (SELECT count(*) FROM charged) AS charged,
                   (SELECT count(DISTINCT invoice_id) FROM charged
                     WHERE (SELECT count(*) FROM tenure.collection_attempts AS attempt
                             WHERE attempt.invoice_id = charged.invoice_id AND attempt.outcome = 'charged') > 1)
                       AS twice,
                   (SELECT count(*) FROM tenure.collection_attempts
                     WHERE state IN ('failed', 'unknown') AND state = 'unknown' AND asked_at < now() - :patience)
                       AS unknown,
                   (SELECT count(*) FROM tenure.reconciliations WHERE differences <> '[]') AS differ,
                   (SELECT max(day) FROM tenure.reconciliations WHERE state = 'done') AS day,
                   (SELECT count(*) FROM ({unfinished("tenure.reconciliations", "due_at")}) AS late
                     WHERE due_at < now() - :patience) AS late"""),
        {"patience": RECONCILIATION_GRACE, "new": NEW},
    ).one()
    if installation.settings.stripe_secret_key is None and row.charged == 0:
        return Evidence(Verdict.UNKNOWN, "No payment provider is configured: nothing is collected.")
    return judged(
        row.twice == row.unknown == row.differ == row.late == 0,
        f"{row.charged} invoices charged since yesterday, {row.twice} of them twice, "
        f"{row.unknown} attempts unknown for a day; "
        f"compared with the provider until {row.day or 'no day yet'}, {row.differ} days differ, {row.late} are late",
    )


def only_catalogued_messages(installation: Installation) -> Evidence:
    """P3.1e: nothing was queued that is not in the closed catalogue."""
    queued = set(installation.connection.scalars(KINDS_OF_MESSAGE))
    foreign = queued - set(MESSAGES)
    return judged(
        not foreign,
        f"{len(queued)} kinds of message were queued, of {len(MESSAGES)} in the catalogue; "
        f"{len(foreign)} of them are not in it",
    )


def links_are_encrypted(installation: Installation) -> Evidence:
    """P5.1a: production does not start with a plaintext link; this connection is asked, too."""
    if installation.settings.mode is not Mode.PRODUCTION:
        return Evidence(Verdict.UNKNOWN, "TENURE_MODE=local: its links do not leave this machine")
    encrypted = installation.connection.execute(
        text("SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)")
    ).scalar_one()
    links = 4 + (installation.settings.stripe_secret_key is not None)
    return judged(bool(encrypted), f"{links} links demand TLS" if encrypted else "PostgreSQL's link is not encrypted")


def vulnerabilities_are_patched(installation: Installation) -> Evidence:
    """P5.1b: what is installed was looked up of late, and no finding has been open past its deadline."""
    row = installation.connection.execute(
        text("""
            SELECT (SELECT now() - max(begun_at) FROM tenure.security_audits WHERE packages IS NOT NULL) AS last,
                   (SELECT now() - min(begun_at) FROM tenure.security_audits) AS first,
                   count(*) AS open, max(now() - first_seen) AS oldest
              FROM tenure.security_findings
             WHERE gone_at IS NULL AND (accepted_until IS NULL OR accepted_until < now()::date)""")
    ).one()
    if row.first is None or (row.last is None and row.first < SILENCE):
        return Evidence(Verdict.UNKNOWN, "No audit of the installed packages has succeeded yet: tenure security audit")
    if row.last is None or row.last > SILENCE:
        return Evidence(Verdict.BROKEN, f"The last audit is {(row.last or row.first).days} d old")
    oldest = f", the oldest for {row.oldest.days} d of {DEADLINE.days}" if row.open else ""
    return judged(
        row.open == 0 or row.oldest <= DEADLINE,
        f"Audited {row.last.total_seconds() / 3600:.0f} h ago; {row.open} findings open{oldest}",
    )


def sessions_end_after_a_day(installation: Installation) -> Evidence:
    """P9.3: none older than 24 hours is readable, none is stored much longer, none says that it began in the future."""
    row = installation.connection.execute(
        text("""
            SELECT (SELECT count(*) FROM tenure.live_sessions WHERE id < tenure.oldest_live_session_id()) AS readable,
                   (SELECT count(*) FROM tenure.sessions
                     WHERE id < tenure.session_id_at(now() - :stored_at_most)) AS overdue,
                   (SELECT count(*) FROM tenure.sessions
                     WHERE id > tenure.session_id_at(now() + interval '10 minutes')) AS ahead,
                   (SELECT extract(epoch FROM now() - created_at)
                      FROM tenure.sessions ORDER BY id LIMIT 1) AS oldest,
                   (SELECT count(*) FROM (SELECT FROM tenure.held_sessions LIMIT :counted) AS few)
                   + (SELECT count(*) FROM (SELECT FROM tenure.held_session_keys LIMIT :counted) AS few) AS held"""),
        {"stored_at_most": STORED_AT_MOST, "counted": COUNTED},
    ).one()
    stored = how_many(installation.connection, "tenure.sessions")
    held = f"{row.held}" if row.held < COUNTED else f"{COUNTED} or more"
    oldest = f"the oldest is {float(row.oldest) / 3600:.1f} h old" if row.oldest is not None else "none"
    others = [_other_store(installation, store.name) for store in _other_stores(installation.settings)]
    return judged(
        row.readable == row.overdue == row.ahead == 0 and all(kept for kept, _ in others),
        f"{stored} sessions stored, {oldest}; {row.readable} readable past 24 h, {row.overdue} stored past 25 h"
        + (f", {row.ahead} from the future" if row.ahead else "")
        + (f"; {held} more, which nobody can read, kept by legal holds" if row.held else "")
        + "".join(f"; {said}" for _, said in others),
    )


def _other_stores(chosen: Settings) -> Sequence[Store]:
    return session_stores.parse(chosen.session_stores, production=chosen.mode is Mode.PRODUCTION)


def _other_store(installation: Installation, store: str) -> tuple[bool, str]:
    """Whether a session store of another program is swept, by what its last sweep wrote down, and in words."""
    row = installation.connection.execute(
        text("""
            SELECT swept_at < now() - :patience AS stale, oldest_at < now() - :stored_at_most AS overdue, outlasting,
                   extract(epoch FROM now() - oldest_at) / 3600 AS hours
              FROM tenure.session_sweeps WHERE store = :store AND swept_at IS NOT NULL"""),
        {"patience": SWEEP_GRACE, "stored_at_most": STORED_AT_MOST, "store": store},
    ).one_or_none()
    if row is None:
        return False, f"{store} was never swept"
    if row.stale:
        return False, f"{store} was not swept for over an hour"
    if row.outlasting:
        return False, f"{store} has {row.outlasting} sessions that will last for more than a day"
    oldest = "holds none" if row.hours is None else f"has its oldest at {float(row.hours):.1f} h"
    return not row.overdue, f"{store} {oldest}"


PROMISES: Sequence[Promise] = (
    Promise("P1.2", "No tracking, no advertising cookies", messages_load_nothing),
    Promise("P1.3", "Confidential: messages carry ids alone", messages_carry_ids_only),
    Promise("P4", "Disclosed only where law requires", disclosures_were_approved),
    Promise("P2.1", "What we collect and store", all_data_are_mapped),
    Promise("P3.1a-c", "Administer, personalise, enable", messages_follow_their_reader),
    Promise("P3.1d", "Statements, invoices, reminders: sent", statements_are_sent),
    Promise("P3.1d", "Statements, invoices, reminders: right", statements_agree_with_the_ledger),
    Promise("P3.1d", "Reminders: once, in time, or not at all", reminders_leave_once_and_in_time),
    Promise("P3.1d", "Payments: collected once, and agreed", payments_are_collected_once),
    Promise("P3.1e", "Non-marketing e-mail only", only_catalogued_messages),
    Promise("P3.1f", "No information sold or handed on", processors_are_listed),
    Promise("P3.1f", "Connections lead where settings say", connections_are_configured),
    Promise("P5.1a", "SSL wherever personal data travels", links_are_encrypted),
    Promise("P5.1b", "Security bugs are patched in time", vulnerabilities_are_patched),
    Promise("P6.1", "A record is sent and all records purged", records_are_purged),
    Promise("P7", "Third-party links are not ours", foreign_links_are_text),
    Promise("P8.1", "Details are kept up to date", details_are_asked_after),
    Promise("P9.2, P9.3", "Session cookies expire past 24 hours", sessions_end_after_a_day),
    Promise("P9.4", "No tracking cookies", pages_set_no_cookie),
)


@click.command()
@as_json
@reports_errors
def policy(json: bool) -> int:
    """Prints a figure of evidence for each. Exits with 1 if a promise is broken."""
    chosen = settings()
    with Database(chosen.database_url, pool_size=1).connection() as connection:
        installation = Installation(chosen, connection)
        found = [(promise, promise.measure(installation)) for promise in PROMISES]
    if json:
        rows = [{"promise": p.number, "clause": p.clause, "verdict": e.verdict, "figure": e.figure} for p, e in found]
        print_json(rows)
    else:
        colours = {Verdict.KEPT: "green", Verdict.BROKEN: "bold red", Verdict.UNKNOWN: "dim"}
        table = Table(box=None, pad_edge=False)
        for heading in ("promise", "clause", "verdict", "figure"):
            table.add_column(heading, overflow="fold", no_wrap=heading in {"promise", "verdict"})
        for promise, evidence in found:
            colour = colours[evidence.verdict]
            table.add_row(promise.number, promise.clause, f"[{colour}]{evidence.verdict}[/]", evidence.figure)
        Console().print(table)
    return int(any(evidence.verdict is Verdict.BROKEN for _, evidence in found))
