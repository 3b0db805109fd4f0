"""An export dies at every boundary (W17, T16): the next run is as if there had been none, and no parts are left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from uuid import uuid4

import pytest

from models.base.base import Base
from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from models.data_map.map import AccountKeys, own_map
from tasks.crypto.age import Sealed
from tasks.export.archive import Archive, export, tidy
from tasks.ports.context import Ports
from tests.faults.places import all_failpoints
from tests.support.rows.company import an_account
from tests.support.time.deadlines import deadline

#: Run here in a process of its own; the steps of a termination have a pipeline of theirs.
EXPORT = "termination.export:"
POINTS = sorted(point for point in all_failpoints() if point.startswith(EXPORT))

PROCESS = """
import sys
from uuid import UUID, uuid4
from models.data_map.map import own_map
from models.base.base import Base
from models.data_map.map import AccountKeys
from tasks.export.archive import Archive, export
from workers.wiring import bootstrap
from workers.app import app
from workers.settings.settings import settings

archive, account, ref = sys.argv[1:]
export(bootstrap.ports(settings(), app), own_map(Base),
       Archive(UUID(archive), AccountKeys(UUID(account), ref), "Yours."), run=uuid4())
"""


@pytest.mark.parametrize("point", POINTS)
def test_death_while_an_archive_is_written(
    point: str, servers: Mapping[str, str], database_url: str, database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        account = an_account(session)
    archive = Archive(uuid4(), AccountKeys(account.id, account.ref), "Yours.")
    environment = dict(os.environ) | dict(servers) | {"TENURE_DATABASE_URL": database_url}
    died = subprocess.run(
        [sys.executable, "-c", PROCESS, str(archive.id), str(account.id), account.ref],
        env=environment | {"TENURE_FAILPOINTS": f"{point}=kill"},
        capture_output=True,
        timeout=deadline(60),
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    left = [each.key for each in ports.objects.list(archive.folder)]
    assert len(left) == point.endswith(("after_complete", "after_read_back"))

    exported = export(ports, own_map(Base), archive, run=uuid4())
    assert ports.objects.abandon(archive.folder) == 0
    assert tidy(ports.objects, archive, exported.key) == len(left)
    assert [each.key for each in ports.objects.list(archive.folder)] == [exported.key]
    with database.transaction() as session:
        identity = ports.keyring.identity(session, account.id, KeyPurpose.EXPORT, archive.id)
    sealed = Sealed(partial(ports.objects.read, exported.key), exported.size, identity)
    assert sealed.content_size == exported.content_size
