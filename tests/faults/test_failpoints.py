"""A process dies at every boundary of every pipeline, once each (W17). Nothing is lost, nothing is done twice.

A run arms all failpoints of one pipeline at once; each kills the process that gets there first, and no second one. Real
worker, beat and relay, real SIGKILL; what died is started again, as a service manager does.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from scheduler.timetable import TIMETABLE
from tasks.billing.statements import LONG
from tasks.client.requests import SessionsRevoke, StatementsSend, submit
from tests.acceptance.outcome import Outcome, customers, send_task
from tests.faults.places import all_failpoints
from tests.faults.test_certificate_kills import CERTIFICATES
from tests.faults.test_disclosure_kills import DISCLOSURE
from tests.faults.test_export_kills import EXPORT
from tests.faults.test_file_uploads import UPLOAD
from tests.faults.test_payment_kills import PAYMENTS
from tests.faults.test_purge_kills import RETENTIONS
from tests.faults.test_reminder_kills import REMINDERS
from tests.faults.test_replay_kills import REPLAY
from tests.faults.test_termination_kills import TERMINATIONS
from tests.support.servers.processes import Processes, Running, eventually

ACCOUNTS = 10

#: Sessions of other programs: beside Tenure's tables, and in the broker's server.
STORES = """
    [[store]]
    name = "shop"
    kind = "connect-pg-simple"
    table = "public.session"
    [[store]]
    name = "cache"
    kind = "redis"
    url = "BROKER"
    prefix = "sess:"
"""

#: Whose the sessions of the shop are.
DATAMAP = """
    [[table]]
    name = "public.session"
    category = "P2.1a"
    paths = ["account = account.ref"]
    exported = ["sid", "account", "expire"]
"""

#: Which process is made to die in which run.
PIPELINES = {
    "plan and sweep": ("statements.plan:", "sessions.sweep:", "files.sweep:", "usage.partition:"),
    "mail's upkeep": ("emails.settle:", "emails.forget:", "details.plan_checks:"),
    "statements": ("statements.render:",),
    "long statements": ("statements.render_long:",),
    "invoices": ("invoices.issue_due:", "invoices.render:"),
    "mail": ("emails.send:", "emails:", "smtp:"),
    "urgent mail": ("emails.send_urgent:",),
    "requests": ("requests:", "requests.handle:"),
    "relay": ("relay:", "waker:"),
}


def points_of(pipeline: str) -> list[str]:
    return sorted(
        point for point in all_failpoints() if point.startswith(PIPELINES[pipeline]) and not point.startswith(REMINDERS)
    )


def test_every_failpoint_is_exercised() -> None:
    exercised = [point for pipeline in PIPELINES for point in points_of(pipeline)]
    elsewhere = (UPLOAD, PAYMENTS, EXPORT, TERMINATIONS, RETENTIONS, CERTIFICATES, REPLAY, DISCLOSURE, *REMINDERS)
    assert sorted(exercised) == sorted(point for point in all_failpoints() if not point.startswith(elsewhere))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_death_at_every_boundary(
    pipeline: str, processes: Processes, database: Database, outcome: Outcome, tmp_path: Path
) -> None:
    points = points_of(pipeline)
    fired = tmp_path / "fired"
    fired.mkdir()
    armed = {"failpoints": ",".join(f"{point}=kill" for point in points), "failpoints_fired": fired}
    in_relay = pipeline == "relay"
    seed(database)
    ask_in_sql(database)

    relay = processes.relay(**(armed if in_relay else {}), wait=False)
    address = processes.addresses["TENURE_BROKER_URL"]
    (tmp_path / "datamap.toml").write_text(DATAMAP, encoding="utf-8")
    stores = {"session_stores": STORES.replace("BROKER", address), "datamap": tmp_path / "datamap.toml"}
    worker = processes.worker(**({} if in_relay else armed), **stores)
    beat = processes.beat()
    send_task(processes, *BY_QUEUE)

    def all_done() -> bool:
        for process in (relay, worker, beat):
            if not process.alive():
                process.start()
        if set(points) - {file.name for file in fired.iterdir()}:
            nudge(database, beat, pipeline)
            return False
        return finished(outcome)

    eventually(all_done, Missing(points, fired), seconds=200)
    nothing_is_lost_or_doubled(outcome)


class Missing:
    """All of them and all work; says, when it is too late, which failpoints nobody came to."""

    def __init__(self, points: list[str], fired: Path) -> None:
        self.points, self.fired = points, fired

    def __str__(self) -> str:
        missing = sorted(set(self.points) - {file.name for file in self.fired.iterdir()})
        return f"all failpoints fired, and all work done; not fired: {', '.join(missing) or 'none'}"


def seed(database: Database) -> None:
    """Customers whose statements are due; one without a contact, one with an address that is none; sessions."""
    customers(database, ACCOUNTS)
    customers(database, 1, prefix="ohne-")
    customers(database, 1, prefix="falsch-")
    long_customers(database)
    with database.connection() as connection:
        connection.execute(text("DELETE FROM tenure.contacts WHERE name LIKE '%ohne-%'"))
        connection.execute(text("DELETE FROM tenure.contacts WHERE name LIKE '%falsch-%'"))
        connection.execute(
            text("""
                INSERT INTO tenure.contacts (account_id, name, email, receives_statements)
                SELECT id, 'Zoë', 'no address', true FROM tenure.accounts WHERE ref = 'falsch-1'""")
        )
        # It is time to ask one whether the details are right.
        connection.execute(
            text("""
                INSERT INTO tenure.contacts (account_id, name, email, created_at)
                SELECT id, 'Zoë', 'alt@customer.example', now() - interval '2 years'
                  FROM tenure.accounts WHERE ref = 'ohne-1'""")
        )
        connection.execute(SEED_INVOICED, {"count": INVOICED})
        # Each death in urgent mail may leave one message that nobody can tell of: there must be enough to die for.
        connection.execute(
            text("""
                INSERT INTO tenure.contacts (account_id, name, email)
                SELECT id, 'Zoë', n || '@kunde-3.example' FROM tenure.accounts, generate_series(1, 8) AS n
                 WHERE ref = 'kunde-3'""")
        )
        connection.execute(
            text("""
                INSERT INTO tenure.sessions (id, account_id, secret_sha256)
                SELECT uuidv7(-age), id, sha256('') FROM tenure.accounts,
                       unnest(ARRAY[interval '1 hour', interval '25 hours']) AS age""")
        )
        connection.execute(
            text("CREATE TABLE public.session (sid text PRIMARY KEY, account text, expire timestamp NOT NULL)")
        )
        # Of one account that is frozen, too, whose sessions go before they are over.
        connection.execute(
            text("""
                INSERT INTO tenure.accounts (ref, name, currency, status) VALUES ('weg-1', 'Weg', 'EUR', 'frozen')""")
        )
        connection.execute(
            text("""
                INSERT INTO public.session
                SELECT concat(n, account), account, timezone('UTC', now()) + n * interval '1 hour'
                  FROM generate_series(-9, 9) AS n, unnest(ARRAY[NULL, 'weg-1']) AS account""")
        )


def long_customers(database: Database) -> None:
    """Some whose statements have so many lines that they are rendered apart; one of them has no contact."""
    customers(database, 2, prefix="lang-")
    customers(database, 1, prefix="ohne-lang-")
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
                SELECT id, kind, 'EUR', amount, 'Miete ' || n, period_start::timestamptz + interval '5 days'
                  FROM tenure.accounts, generate_series(1, :count) AS n,
                       (VALUES ('charge', 500), ('payment', -500)) AS entry (kind, amount) WHERE ref LIKE '%lang-%'"""),
            {"count": LONG // 2},
        )


#: What the web tier asks for in its own transactions, and by the queue.
BY_QUEUE = (
    ("sessions.revoke", {"kwargs": {"account": "kunde-3", "dedupe_key": "queue-1"}, "task_id": "queue-1"}),
    ("emails.send_account_set_up", {"kwargs": {"account": "kunde-4"}, "task_id": "queue-2"}),
    ("sessions.revoke", {"kwargs": {"acount": "kunde-5"}, "task_id": "queue-3"}),
)


def ask_in_sql(database: Database) -> None:
    with database.transaction() as session:
        submit(session, SessionsRevoke(account="kunde-1"), dedupe_key="sql-1")
        submit(session, SessionsRevoke(account="falsch-1"), dedupe_key="sql-2")
        submit(session, StatementsSend(account="kunde-2"), dedupe_key="sql-3")
        # It has nothing to state, and so fails for good.
        session.execute(
            text("""
                INSERT INTO tenure.accounts (ref, name, currency, period_start)
                VALUES ('leer-1', 'Leer', 'EUR', now()::date)""")
        )
        submit(session, StatementsSend(account="leer-1"), dedupe_key="sql-4")
    with Session(database.engine) as session:
        submit(session, SessionsRevoke(account="kunde-6"), dedupe_key="rolled-back")
        session.rollback()


#: Customers whose invoices of the month before are due; one of them has no contact that is to get it.
INVOICED = 6
SEED_INVOICED = text("""
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, currency, time_zone, invoiced_from)
        SELECT 'rechnung-' || n, 'Rechnung ' || n, 'EUR', 'UTC',
               (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date
          FROM generate_series(1, :count) AS n RETURNING id, ref, invoiced_from
    ), contacts AS (
        INSERT INTO tenure.contacts (account_id, name, email, receives_statements)
        SELECT id, 'Zoë ' || ref, ref || '@kunde.example', ref <> 'rechnung-1' FROM made
    )
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, 'charge', 'EUR', 500, 'Miete ' || n, invoiced_from::timestamptz + make_interval(days => n)
      FROM made, generate_series(1, 3) AS n""")


def nudge(database: Database, beat: Running, pipeline: str) -> None:
    """Beat's next tick may be a minute away: a new Beat ticks at once. The sweep needs something to sweep again."""
    if pipeline not in {"plan and sweep", "mail's upkeep", "invoices"} or not beat.alive():
        return
    if pipeline == "plan and sweep":
        # Before the tick: what came after the last one would lie there until the next, for ten minutes.
        with database.connection() as connection:
            # A partition that is over, where there is none, for the one; for the other is none, ever.
            connection.execute(
                text("""
                    SELECT tenure.make_session_partition(now() - interval '30 hours') WHERE NOT EXISTS (
                        SELECT FROM tenure.session_partitions WHERE until <= now() - interval '24 hours')""")
            )
            connection.execute(
                text("""
                    INSERT INTO tenure.sessions (id, account_id, secret_sha256)
                    SELECT uuidv7(-age), account.id, sha256('')
                      FROM (SELECT id FROM tenure.accounts WHERE status = 'active' LIMIT 1) AS account,
                           unnest(ARRAY[interval '30 hours', interval '60 hours']) AS age""")
            )
            connection.execute(
                text("""
                    INSERT INTO tenure.submitted_files (account_id, name, state)
                    SELECT id, 'plan.pdf', 'discarded' FROM tenure.accounts WHERE status = 'active' LIMIT 1""")
            )
    beat.kill()
    beat.start()
    # Killed again before it has ticked them all, it would never come to the last ones.
    eventually(lambda: all(f"due task {entry.task} " in beat.text() for entry in TIMETABLE), "Beat has ticked all")


def finished(outcome: Outcome) -> bool:
    return (
        outcome.states("statements") == {"done": ACCOUNTS + 3, "failed": 2}
        and outcome.states("invoice_documents") == {"done": INVOICED - 1, "failed": 1}
        and outcome.states("job_requests") == {"done": 5, "failed": 1}
        and outcome.one("SELECT count(*) FROM tenure.quarantine") == 1
        and outcome.one("SELECT count(*) FROM tenure.sessions WHERE created_at < now() - interval '24 hours'") == 0
        and outcome.one("SELECT count(*) FROM tenure.submitted_files") == 0
        and outcome.one("SELECT count(*) FROM tenure.email_messages WHERE message = 'details-check'") == 1
        and outcome.one("SELECT count(*) FROM public.session") == 9
        and outcome.quiet()
    )


def nothing_is_lost_or_doubled(outcome: Outcome) -> None:
    statements = outcome.query("SELECT * FROM tenure.statements WHERE state = 'done'")
    assert outcome.stored({str(row.account_id) for row in statements}) == {row.document_key for row in statements}

    invoices = outcome.query("SELECT * FROM tenure.invoices JOIN tenure.invoice_documents ON invoice_id = invoices.id")
    assert sorted(row.series_number for row in invoices) == list(range(1, INVOICED + 1))
    keys = {row.document_key for row in invoices if row.state == "done"}
    assert outcome.stored({str(row.account_id) for row in invoices}, "invoices/") == keys
    assert outcome.one("SELECT count(*) FROM tenure.invoice_lines") == 3 * INVOICED

    mails = outcome.query("SELECT * FROM tenure.email_messages")
    expected = Counter(
        {
            "statement-ready": ACCOUNTS + 3,
            "security-notice": 11,
            "account-set-up": 1,
            "details-check": 1,
            "invoice-issued": INVOICED - 1,
        }
    )
    # Asked for again after it had gone out, the statement of kunde-2 goes once more; asked for before, it does not.
    again = [row for row in mails if row.message == "statement-ready" and row.dedupe_key.startswith("request:")]
    assert len(again) <= 1
    assert Counter(row.message for row in mails) - Counter({"statement-ready": len(again)}) == expected

    copies = outcome.copies()
    for row in mails:
        if row.to_address == "no address":
            assert row.state == "failed"
        elif row.state == "unknown":
            assert copies[row.message_id] <= 1
        else:
            assert (row.state, copies[row.message_id]) == ("done", 1)
    assert copies.keys() <= {row.message_id for row in mails}

    left = {row.ref: row.n for row in outcome.query(LIVE_SESSIONS)}
    assert left["kunde-1"] == left["kunde-3"] == left["falsch-1"] == 0
    assert left["kunde-6"] == left["kunde-2"] == 1


LIVE_SESSIONS = """
    SELECT ref, count(sessions.id) AS n FROM tenure.accounts LEFT JOIN tenure.sessions
        ON account_id = accounts.id AND sessions.created_at > now() - interval '24 hours' GROUP BY ref"""
