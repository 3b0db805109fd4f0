"""PgBouncer in transaction mode: the doctor says that it is refused, and what to do."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.time.deadlines import deadline
from workers.local.place import port_is_free
from workers.observe import doctor
from workers.settings.settings import Settings

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")


@contextmanager
def pooled(address: str, directory: Path, *settings: str) -> Iterator[str]:
    """The same database behind a PgBouncer in transaction mode."""
    url = make_url(address)
    port = next(port for port in range(26_000, 32_000) if port_is_free(port))
    directory.chmod(0o755)
    (directory / "users.txt").write_text(f'"{url.username}" "{url.password}"\n')
    config = directory / "pgbouncer.ini"
    config.write_text(
        "\n".join(
            [
                "[databases]",
                f"{url.database} = host={url.host} port={url.port} dbname={url.database}",
                "[pgbouncer]",
                *("listen_addr = 127.0.0.1", f"listen_port = {port}", "pool_mode = transaction", "unix_socket_dir ="),
                *("auth_type = scram-sha-256", f"auth_file = {directory / 'users.txt'}", *settings),
            ]
        )
    )
    as_nobody = ["--user", "nobody"] if directory.owner() == "root" else []
    process = subprocess.Popen([str(PGBOUNCER), *as_nobody, str(config)], stderr=subprocess.DEVNULL)
    try:
        made = url.set(port=port).render_as_string(hide_password=False)
        ends = time.monotonic() + deadline(60)
        while time.monotonic() < ends:
            with suppress(psycopg.OperationalError), psycopg.connect(made, connect_timeout=3):
                break
            assert process.poll() is None, "PgBouncer has ended"
            time.sleep(0.1)
        yield made
    finally:
        process.kill()
        process.wait(deadline(30))


@pytest.mark.parametrize(
    "options", [(), ("ignore_startup_parameters = options,extra_float_digits",)], ids=["strict", "lax"]
)
def test_the_doctor_refuses_a_pooler_that_drops_our_settings(
    options: tuple[str, ...], database_url: str, settings: Settings
) -> None:
    with tempfile.TemporaryDirectory() as directory, pooled(database_url, Path(directory), *options) as address:
        finding = doctor.database(msgspec.structs.replace(settings, database_url=address))
    assert finding.trouble is not None
    assert "PgBouncer" in finding.trouble
    assert "PostgreSQL's own address" in finding.trouble
