"""A process dies wherever certificates are written (W17): the chain has no gap, and every one is copied once (T25)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery

from models.base.unit_of_work import Database
from models.termination.certificate import CertificateKind
from tasks.certificates import publishing
from tasks.certificates.chain import document, examine
from tasks.certificates.issuing import issue
from tasks.ports.context import Ports
from tests.acceptance.outcome import Outcome
from tests.faults.places import all_failpoints
from tests.support.rows.certifying import a_termination
from tests.support.rows.raw_objects import put_raw
from tests.support.servers.processes import Processes, eventually
from tests.support.time.deadlines import deadline

#: The places of this pipeline.
CERTIFICATES = "certificates"
PUBLISHING = sorted(point for point in all_failpoints() if point.startswith("certificates.publish:"))
ISSUING = sorted(point for point in all_failpoints() if point.startswith("certificates:"))

#: Issues one certificate in a process of its own.
PROCESS = """
import sys
from uuid import UUID
from models.termination.certificate import CertificateKind
from tasks.certificates.issuing import issue
from workers.wiring import bootstrap
from workers.app import app
from workers.settings.settings import settings

ports = bootstrap.ports(settings(), app)
termination, subject = map(UUID, sys.argv[1:])
with ports.database.transaction() as session:
    issue(session, ports.signer, CertificateKind.RETENTION, subject, termination_id=termination, facts={"stores": []})
"""


@pytest.mark.parametrize("point", ISSUING)
def test_death_while_a_certificate_is_issued(
    point: str, servers: Mapping[str, str], database_url: str, database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        termination, subject = a_termination(session).id, uuid4()
    died = subprocess.run(
        [sys.executable, "-c", PROCESS, str(termination), str(subject)],
        env=dict(os.environ)
        | dict(servers)
        | {"TENURE_DATABASE_URL": database_url, "TENURE_FAILPOINTS": f"{point}=kill"},
        capture_output=True,
        timeout=deadline(60),
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    with database.transaction() as session:
        made = issue(
            session, ports.signer, CertificateKind.RETENTION, subject, termination_id=termination, facts={"stores": []}
        )
    assert made.number == 2


@pytest.mark.timeout(120)
def test_death_while_copies_are_made(
    processes: Processes, database: Database, outcome: Outcome, ports: Ports, tmp_path: Path
) -> None:
    fired = tmp_path / "fired"
    fired.mkdir()
    add(database, ports, 12)
    # One that was copied by another database before: its copy fails for good.
    put_raw(ports.objects, publishing.key(13), b"another")
    worker = processes.worker(failpoints=",".join(f"{each}=kill" for each in PUBLISHING), failpoints_fired=fired)
    app = Celery(broker=processes.addresses["TENURE_BROKER_URL"])

    def all_done() -> bool:
        if not worker.alive():
            worker.start()
        app.send_task("certificates.publish", queue="lifecycle")
        if set(PUBLISHING) - {file.name for file in fired.iterdir()}:
            return False
        return outcome.states("certificate_copies") == {"done": 12, "failed": 1}

    eventually(all_done, "every place was died at, and all are copied", seconds=100)
    ports.objects.erase(publishing.key(13))
    copies = list(publishing.copies(ports.objects))
    assert [each.number for each in copies] == [*range(1, 13)]
    whole = document(copies, whole=True, signer=ports.signer.current)
    assert examine(whole, [ports.signer.current.public]).problems == []


def add(database: Database, ports: Ports, count: int) -> None:
    with database.transaction() as session:
        termination = a_termination(session).id
        for _ in range(count):
            issue(
                session, ports.signer, CertificateKind.RETENTION, uuid4(), termination_id=termination,
                facts={"stores": []},
            )  # fmt: skip
