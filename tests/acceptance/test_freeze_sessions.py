"""A frozen account is signed out of other programs' stores before its record is made, by real workers (S6, T9, T11).

No relay and no clock run: nothing but the termination's own steps can have ended the sessions.
"""

from __future__ import annotations

from pathlib import Path

import redis
from celery import Celery
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.termination.termination import Step
from tests.acceptance.outcome import Outcome
from tests.support.rows.company import an_account
from tests.support.rows.terminating import a_termination
from tests.support.servers.processes import Processes, eventually

SHOP = """
    CREATE SCHEMA web;
    CREATE TABLE web.session (sid text PRIMARY KEY, customer text NOT NULL, expire timestamptz NOT NULL);
    CREATE INDEX ON web.session (customer);
    INSERT INTO web.session SELECT ref || n, ref, now() + interval '1 hour'
      FROM tenure.accounts, generate_series(1, 300) AS n
"""
MAP = """
    [[table]]
    name = "web.session"
    category = "P2.1a"
    paths = ["customer = account.ref"]
    key = ["sid"]
    exported = ["sid", "customer", "expire"]

    [[redis]]
    pattern = "session:{account_ref}:*"
    category = "P2.1a"
    left_out = "it ends within a day"
"""
STORES = """
    [[store]]
    name = "web"
    kind = "sql"
    table = "web.session"
    key = "sid"
    expires = "expire"
    batch = 100

    [[store]]
    name = "cache"
    kind = "redis"
    url = "{broker}"
    prefix = "session:"
"""


def test_no_session_is_left_when_the_record_is_made(
    database: Database, processes: Processes, outcome: Outcome, broker: redis.Redis, tmp_path: Path
) -> None:
    with database.transaction() as session:
        for ref in ("leaving", "other"):
            account = an_account(session, ref=ref)
            for number in range(3):
                broker.set(f"session:{ref}:{number}", ref, ex=3600)
            if ref == "leaving":
                a_termination(session, account.id, Step.FREEZE, stage="requested")
        session.execute(text("UPDATE tenure.terminations SET stage = 'grace'"))
        session.connection().exec_driver_sql(SHOP)
    (tmp_path / "datamap.toml").write_text(MAP, encoding="utf-8")
    address = processes.addresses["TENURE_BROKER_URL"]
    processes.worker(datamap=tmp_path / "datamap.toml", session_stores=STORES.format(broker=address))
    with Celery(broker=address) as client:
        client.send_task("terminations.advance", queue="lifecycle")
    eventually(
        lambda: outcome.one("SELECT stage FROM tenure.terminations") == "sealed", "the record is made", seconds=60
    )
    assert outcome.one("SELECT exported_rows #> '{main,web.session}' FROM tenure.terminations") == 0
    assert outcome.one("SELECT count(*) FROM web.session WHERE customer = 'leaving'") == 0
    assert outcome.one("SELECT count(*) FROM web.session WHERE customer = 'other'") == 300
    assert sorted(broker.scan_iter("session:*")) == [f"session:other:{number}".encode() for number in range(3)]
    # The sweep has not run.
    assert outcome.one("SELECT count(*) FROM tenure.session_sweeps") == 0
