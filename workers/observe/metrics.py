"""`tenure metrics`: figures for Prometheus, read from PostgreSQL when they are asked for (W13).

Any number may run, anywhere; all say the same. There is no personal data in them: names of tables, tasks, states and
promises, and numbers. `docs/grafana.json` shows them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from threading import Event, Lock
from time import monotonic
from types import FrameType

import click
import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from models.work import counter
from models.work import row as work
from models.work.row import work_tables
from workers.observe.promises.evidence import Installation, Verdict
from workers.observe.promises.report import PROMISES
from workers.settings.settings import Settings

log = structlog.get_logger()

#: Seconds for which the promises' evidence is shown again: some of it is more than an index scan.
PROMISES_KEPT = 300.0


class Figures(Collector):
    """Everything that is shown, from one connection and one transaction a look."""

    def __init__(self, chosen: Settings, database: Database) -> None:
        self._settings = chosen
        self._database = database
        self._promises: tuple[float, Metric] | None = None
        self._one_at_a_time = Lock()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("tenure_database_up", "Whether PostgreSQL answers; without it there are no figures.")
        figures: list[Metric] = []
        with self._one_at_a_time:
            try:
                with self._database.connection() as connection:
                    figures = [*_work(connection), _counts(connection), *_attention(connection)]
                    figures.append(self._kept(connection))
            except DBAPIError as error:
                figures = []
                log.warning("postgresql.unavailable", reason=outage_reason(error))
        up.add_metric([], bool(figures))
        yield up
        yield from figures

    def _kept(self, connection: Connection) -> Metric:
        if self._promises is None or monotonic() - self._promises[0] > PROMISES_KEPT:
            self._promises = (monotonic(), _promises(self._settings, connection))
        return self._promises[1]


def _work(connection: Connection) -> Iterator[Metric]:
    """Rows that are not at their end, and how long the oldest due one has waited."""
    rows = GaugeMetricFamily("tenure_work_rows", "Work rows that are not at their end.", labels=["table", "state"])
    due = GaugeMetricFamily("tenure_work_due_rows", "Pending work rows that are due now.", labels=["table"])
    oldest = GaugeMetricFamily(
        "tenure_work_oldest_due_seconds",
        "For how long the oldest due row has been due; 0 where none is.",
        labels=["table"],
    )
    for table in work_tables():
        name, tally = table.__tablename__, work.standing(connection, table)
        for state in ("pending", "running", *(each for each in work.WANTING if each in set(table.states))):
            rows.add_metric([name, state], tally.states.get(state, 0))
        due.add_metric([name], tally.due)
        oldest.add_metric([name], tally.oldest_due.total_seconds() if tally.oldest_due else 0)
    yield from (rows, due, oldest)


def _counts(connection: Connection) -> Metric:
    done = CounterMetricFamily("tenure_done", "What became of the rows of each task.", labels=["task", "outcome"])
    for (task, outcome), value in counter.counted(connection).items():
        done.add_metric([task, outcome], value)
    return done


def _attention(connection: Connection) -> Iterator[Metric]:
    """What is neither due nor done: messages that nobody understood, jobs that somebody paused."""
    kept = connection.execute(text("SELECT count(*) FROM tenure.quarantine WHERE replayed_at IS NULL")).scalar_one()
    yield GaugeMetricFamily("tenure_quarantined_messages", "Messages that could not be accepted.", value=kept)
    paused = GaugeMetricFamily("tenure_job_paused", "1 where an operator has paused the job.", labels=["task"])
    for row in connection.execute(text("SELECT task, paused FROM tenure.work_controls ORDER BY task")):
        paused.add_metric([row.task], row.paused)
    yield paused


def _promises(chosen: Settings, connection: Connection) -> Metric:
    kept = GaugeMetricFamily(
        "tenure_promise_kept",
        "1 where a promise is kept, 0 where it is broken; left out where neither is known.",
        labels=["promise"],
    )
    installation = Installation(chosen, connection)
    verdicts: dict[str, bool] = {}
    for promise in PROMISES:
        evidence = promise.measure(installation)
        if evidence.verdict is not Verdict.UNKNOWN:
            # A promise may have several figures: it is kept where all of them say so.
            verdicts[promise.number] = verdicts.get(promise.number, True) and evidence.verdict is Verdict.KEPT
    for number, is_kept in verdicts.items():
        kept.add_metric([number], is_kept)
    return kept


def serve(chosen: Settings) -> int:
    """Answer at `/metrics` until SIGTERM or Ctrl-C. Returns the exit code."""
    address, port = chosen.metrics_address, chosen.metrics_port
    registry = CollectorRegistry(auto_describe=False)
    database = Database(chosen.database_url, pool_size=1)
    registry.register(Figures(chosen, database))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        click.echo(
            f"tenure: {address}:{port} cannot be listened on ({error.strerror}): set TENURE_METRICS_ADDRESS and "
            "TENURE_METRICS_PORT to what is free.",
            err=True,
        )
        return 1
    over = Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    log.info("metrics.listening", address=address, port=server.server_port)
    over.wait()
    server.shutdown()
    thread.join()
    database.engine.dispose()
    return 0
