"""A worker does not start on a restored database that does not know what was erased since (T26)."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.certificates import erasure_notes
from tasks.ports.context import Ports
from tests.support.rows.certifying import a_termination
from tests.support.servers.faulty_s3 import Faults, faulty
from tests.support.servers.processes import Processes, eventually, throughout


@pytest.fixture
def restored(database: Database, ports: Ports) -> Database:
    """A database whose backup was made before an erasure that the ledger has."""
    with database.transaction() as session:
        termination = a_termination(session).id
    erasure_notes.note(ports, termination)
    with database.connection() as connection:
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text("DELETE FROM tenure.terminations"))
    return database


@pytest.mark.usefixtures("restored")
def test_a_worker_refuses_to_start_and_says_why(processes: Processes) -> None:
    worker = processes.worker(wait=False)
    eventually(lambda: not worker.alive(), "the worker has ended")
    assert "tenure: This database does not know 1 erasure of which the object store tells" in worker.text()
    assert "Run tenure purge replay" in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.usefixtures("restored")
def test_a_worker_that_could_not_look_at_its_start_stops_as_soon_as_it_can(processes: Processes) -> None:
    """The object store is away: the worker starts, as it always does, and ends when the store is back."""
    faults = Faults()
    faults.set("refuse")
    with faulty(processes.addresses["TENURE_S3_ENDPOINT"], faults) as endpoint:
        worker = processes.worker(s3_endpoint=endpoint)
        assert "erasures.unchecked" in worker.text()
        throughout(worker.alive, "it works meanwhile", seconds=3)
        faults.set("pass")
        worker.await_end()
    assert "erasures.unknown" in worker.text()
    assert "Run tenure purge replay" in worker.text()
