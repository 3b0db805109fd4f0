"""Figures for Prometheus: true whichever worker did the work, without personal data, shown by the dashboard (W13)."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.work import control
from models.work import row as work
from models.work.counter import count, counted
from models.work.request import JobRequest
from tasks.billing.statements import RENDER, plan
from tasks.engine.drain import drain
from tasks.engine.prune import prune
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tests.acceptance.outcome import customers
from workers.observe.metrics import Figures
from workers.settings.settings import Settings

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana.json"

Sample = tuple[str, tuple[tuple[str, str], ...]]


def figures(settings: Settings, database: Database) -> dict[Sample, float]:
    """What is answered now, by name and labels."""
    registry = CollectorRegistry()
    registry.register(Figures(settings, database))
    said = generate_latest(registry).decode()
    series = [line.rpartition(" ")[0] for line in said.splitlines() if not line.startswith("#")]
    assert len(set(series)) == len(series), "Prometheus refuses a series that is there twice"
    families = text_string_to_metric_families(said)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def labelled(name: str, **labels: str) -> Sample:
    return name, tuple(sorted(labels.items()))


def test_what_workers_did_is_counted_where_they_did_it(
    settings: Settings, database: Database, ports: Ports, other_worker: Ports
) -> None:
    customers(database, 3)
    plan(ports)
    waiting = figures(settings, database)
    assert waiting[labelled("tenure_work_due_rows", table="statements")] == 3
    assert waiting[labelled("tenure_work_rows", table="statements", state="pending")] == 3
    drain(RENDER, ports)
    drain(SEND, other_worker)
    found = figures(settings, database)
    assert found[labelled("tenure_done_total", task="statements.render", outcome="rendered")] == 3
    assert found[labelled("tenure_done_total", task="emails.send", outcome="sent")] == 3
    assert found[labelled("tenure_work_due_rows", table="statements")] == 0
    assert found[labelled("tenure_work_oldest_due_seconds", table="statements")] == 0
    assert found[labelled("tenure_promise_kept", promise="P3.1d")] == 1
    assert found[labelled("tenure_database_up")] == 1
    with database.connection() as connection:
        connection.execute(text("TRUNCATE tenure.statements CASCADE"))
    pruned = figures(settings, database)
    assert pruned[labelled("tenure_done_total", task="statements.render", outcome="rendered")] == 3


def test_a_rolled_back_transaction_counts_nothing(database: Database) -> None:
    with database.engine.connect() as connection:
        count(connection, "statements.render", "rendered", 7)
        connection.rollback()
    with database.connection() as connection:
        assert counted(connection) == {}


def test_what_waits_for_a_person_is_shown(settings: Settings, database: Database) -> None:
    with database.connection() as connection:
        connection.execute(
            text("INSERT INTO tenure.job_requests (kind, args, state) VALUES ('statements.send', '{}', 'failed')")
        )
        connection.execute(
            text("INSERT INTO tenure.quarantine (message_id, body, reason) VALUES ('m', '', 'Not understood.')")
        )
        control.set_paused(connection, "emails.send", True)
    found = figures(settings, database)
    assert found[labelled("tenure_work_rows", table="job_requests", state="failed")] == 1
    assert found[labelled("tenure_quarantined_messages")] == 1
    assert found[labelled("tenure_job_paused", task="emails.send")] == 1


def test_a_million_finished_rows_are_not_looked_at(database: Database) -> None:
    """Every part of the query reads an index that finished rows are not in."""
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.job_requests (kind, args, state, finished_at)
                SELECT 'statements.send', '{}', 'done', now() FROM generate_series(1, 20000)""")
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE tenure.job_requests"))
        before = connection.execute(SCANNED).scalar_one()
        work.standing(connection, JobRequest)
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        assert connection.execute(SCANNED).scalar_one() == before, "it read the table from end to end"


SCANNED = text("SELECT seq_scan FROM pg_stat_user_tables WHERE schemaname = 'tenure' AND relname = 'job_requests'")


def test_finished_rows_are_pruned_by_age_and_all_others_stay(database: Database, ports: Ports) -> None:
    """W10; a row that failed waits for a person, however old."""
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.job_requests (kind, args, state, finished_at, created_at)
                SELECT 'statements.send', jsonb_build_object('n', n), state, now() - age * interval '1 day',
                       now() - interval '200 days'
                  FROM generate_series(1, 5) AS n,
                       (VALUES ('done', 91), ('done', 89), ('cancelled', 91), ('failed', 91)) AS kinds (state, age)""")
        )
        connection.execute(
            text("""
                INSERT INTO tenure.quarantine (message_id, body, reason, received_at, replayed_at)
                VALUES ('never replayed', '', '', now() - interval '91 days', NULL),
                       ('waits', '', '', now() - interval '89 days', NULL),
                       ('replayed', '', '', now() - interval '200 days', now() - interval '31 days')""")
        )
        connection.execute(
            text("""
                INSERT INTO tenure.payment_events (delivery, event, state, finished_at)
                SELECT sha256(convert_to(n || state || age, 'UTF8')), 'evt_' || n, state,
                       CASE WHEN state = 'failed' THEN now() - age * interval '1 day' END
                  FROM generate_series(1, 3) AS n,
                       (VALUES ('failed', 31), ('failed', 29), ('pending', 0)) AS kinds (state, age)""")
        )
    assert prune(ports, batch=2) == 15
    assert prune(ports, batch=2) == 0
    with database.connection() as connection:
        left = connection.execute(text("SELECT state, count(*) FROM tenure.job_requests GROUP BY 1 ORDER BY 1")).all()
        assert [tuple(row) for row in left] == [("done", 5), ("failed", 5)]
        assert connection.execute(text("SELECT message_id FROM tenure.quarantine")).scalars().all() == ["waits"]
        assert connection.execute(text("SELECT count(*) FROM tenure.payment_events")).scalar_one() == 6
        counts = counted(connection)
        assert counts["work.prune", "pruned"] == 11
        assert counts["work.prune", "never_replayed"] == 1
        assert counts["work.prune", "refused_events"] == 3


def test_the_dashboard_shows_figures_that_there_are(settings: Settings, database: Database, ports: Ports) -> None:
    customers(database, 1)
    plan(ports)
    drain(RENDER, ports)
    with database.connection() as connection:
        control.set_paused(connection, "emails.send", True)
    there = {name for name, _ in figures(settings, database)}
    dashboard = msgspec.json.decode(DASHBOARD.read_bytes())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"tenure_\w+", target["expr"])
    }
    assert shown == there, "each figure has its panel, each panel its figure"
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
