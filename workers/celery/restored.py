"""No worker works on a restored or promoted database that does not know what was erased since (T26).

The comparison is made when a worker starts, and again whenever its database has become another one: a standby that was
promoted, a backup that was restored in its place. Where a server is away it cannot be made, and nothing can be done
either: then the worker starts, as it always does, and stops as soon as the comparison is made and says so.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread
from time import sleep
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from tasks.certificates import erasure_notes
from tasks.failures import Unavailable
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import settings

log = structlog.get_logger()

#: Seconds between two tries to compare, where a server was away.
PAUSE = 2.0
#: Seconds between two looks whether the database has become another one.
WATCH = 5.0

#: What changes when a standby is promoted (the timeline), or a backup is restored as another cluster or database. NULL
#: in a standby.
INCARNATION = text("""
    SELECT CASE WHEN NOT pg_is_in_recovery()
                THEN concat_ws('/', (pg_control_system()).system_identifier, (SELECT oid FROM pg_database
                     WHERE datname = current_database()), left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)) END""")


def refuse(**_: Any) -> None:
    """End this process with a sentence if the database was restored and not taught again; else watch it."""
    compared: str | None = None
    try:
        now = _incarnation()
        found = _unknown()
    except (Unavailable, DBAPIError) as error:
        reason = outage_reason(error) if isinstance(error, DBAPIError) else str(error)
        log.warning("erasures.unchecked", reason=reason)
    else:
        if found:
            sys.exit(f"tenure: {found}")
        compared = now
    Thread(target=_watch, args=(compared,), name="erasures", daemon=True).start()


def _incarnation() -> str | None:
    database = Database(settings().database_url, pool_size=1)
    try:
        with database.connection() as connection:
            found: str | None = connection.execute(INCARNATION).scalar_one()
            return found
    finally:
        database.engine.dispose()


def _unknown() -> erasure_notes.Unknown:
    # Not the ports of this process, which children would inherit with their connections.
    database = Database(settings().database_url, pool_size=1)
    try:
        return erasure_notes.unknown(database, S3ObjectStore(settings()))
    finally:
        database.engine.dispose()


def _watch(compared: str | None) -> None:
    """Compare whenever the database is another one than `compared`; stop this worker if something is unknown."""
    while True:
        sleep(PAUSE if compared is None else WATCH)
        try:
            now = _incarnation()
            if now is None or now == compared:
                continue
            found = _unknown()
        except (Unavailable, DBAPIError):
            continue
        if found:
            log.error("erasures.unknown", reason=str(found))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        compared = now
