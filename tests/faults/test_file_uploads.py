"""A web process dies at every boundary of storing a file (W17): each object has a row, each stored row its object.

The web tier's process is no worker: it runs here by itself, with its failpoint armed, and dies by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.client.files import sweep
from tasks.ports.context import Ports
from tests.faults.places import all_failpoints
from tests.support.rows.company import an_account
from tests.support.time.deadlines import deadline
from workers.adapters.objects.parts import FIRST as PART
from workers.adapters.objects.s3 import S3ObjectStore

#: In a web process, and so in no pipeline of `test_failpoints.py`.
UPLOAD = "files.store:"
POINTS = sorted(point for point in all_failpoints() if point.startswith(UPLOAD))

#: Stores one file of two parts and a bit; without a failpoint it dies in the middle of its content.
WEB = f"""
import os, signal
from models.base.unit_of_work import Database
from tasks.engine import failpoints
from tasks.crypto.keyring import Keyring
from tasks.client.files import store_file
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import settings

failpoints.arm(os.environ)

def content():
    yield b"x" * {2 * PART + 1}
    if failpoints.VARIABLE not in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)

store_file(Database(settings().database_url), S3ObjectStore(settings()), Keyring(settings().key_encryption_keys),
           account="acme", name="a", content=content())
"""


@pytest.mark.parametrize("point", [*POINTS, ""])
def test_death_while_a_file_is_stored(
    point: str, servers: Mapping[str, str], database_url: str, database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
    environment = dict(os.environ) | dict(servers) | {"TENURE_DATABASE_URL": database_url}
    if point:
        environment["TENURE_FAILPOINTS"] = f"{point}=kill"
    died = subprocess.run(
        [sys.executable, "-c", WEB], env=environment, capture_output=True, timeout=deadline(60), check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()

    assert isinstance(ports.objects, S3ObjectStore)
    client, bucket, prefix = ports.objects.client, ports.objects._settings.s3_bucket, f"files/{account.id}/"

    def agree() -> list[str]:
        with database.connection() as connection:
            rows = connection.execute(text("SELECT object_key, state FROM tenure.submitted_files")).all()
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
        found = {each["Key"] for each in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])}
        known = {row.object_key for row in rows}
        assert found | {each["Key"] for each in uploads} <= known
        assert {row.object_key for row in rows if row.state == "stored"} <= found
        return [row.state for row in rows]

    assert agree() == ["stored" if point.endswith("after_commit") else "uploading"]
    sweep(database, ports.objects)
    # A day later.
    sweep(database, ports.objects, after=timedelta(0))
    assert agree() == (["stored"] if point.endswith("after_commit") else [])
    assert not client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads")
