"""Plain Celery with a task for each statement, and WeasyPrint: what one would write without Tenure."""

from __future__ import annotations

import sys
from time import monotonic

import weasyprint  # noqa: F401 - whether it is installed, with the libraries that it loads

from benchmarks.measure import Sample
from benchmarks.servers import Servers
from benchmarks.statement_books import fill

NAME = "Celery, a task each with WeasyPrint"
LINES = 20
COMMAND = (sys.executable, "-m", "celery", "-A", "benchmarks.weasy_app")


def run(servers: Servers, work: int) -> Sample:
    broker = servers.broker()
    from benchmarks.weasy_app import QUEUE, app

    with servers.database() as observer, servers.crew(observer.url) as crew:
        fill(observer, work, LINES)
        crew.start("planner", [sys.executable, "-m", "benchmarks.planner"])
        crew.await_end("planner")
        broker.flushall()
        crew.start("worker", [*COMMAND, "worker", "--concurrency=2", "--loglevel=INFO"], until=" ready.")
        app.conf["broker_url"] = servers.environment["TENURE_BROKER_URL"]
        ids = [str(row[0]) for row in observer.connection.execute("SELECT id FROM tenure.statements")]
        used = servers.cpu() + crew.cpu("worker")
        begun = monotonic()
        with app.producer_or_acquire() as producer:
            for each in ids:
                app.send_task("weasyprint.statement", (each,), queue=QUEUE, producer=producer)
        made = "SELECT count(*) FROM tenure.statements WHERE document_bytes > 1000"
        crew.wait(lambda: observer.value(made) == work, f"{work} statements are made", poll=0.02)
        seconds, used = monotonic() - begun, servers.cpu() + crew.cpu("worker") - used
        assert observer.value("SELECT count(*) FROM tenure.email_messages") == work
        return Sample(work / seconds, crew.peak_memory("worker"), cpu=used)
