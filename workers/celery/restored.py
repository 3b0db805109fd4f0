"""No worker works on a restored database that does not know what was erased since its backup (T26).

The comparison is made when a worker starts. Where a server is away it cannot be made, and nothing can be done either:
then the worker starts, as it always does, and stops as soon as the answer is there and says so.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread
from time import sleep
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, outage_reason
from tasks.certificates import erasure_notes
from tasks.failures import Unavailable
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import settings

log = structlog.get_logger()

#: Seconds between two tries to compare, where a server was away.
PAUSE = 2.0


def refuse(**_: Any) -> None:
    """Ends this process with a sentence where the database was restored and not taught again."""
    try:
        found = _unknown()
    except (Unavailable, DBAPIError) as error:
        reason = outage_reason(error) if isinstance(error, DBAPIError) else str(error)
        log.warning("erasures.unchecked", reason=reason)
        Thread(target=_stop_later, name="erasures", daemon=True).start()
    else:
        if found:
            sys.exit(f"tenure: {found}")


def _unknown() -> erasure_notes.Unknown:
    # Not the ports of this process, which children would inherit with their connections.
    database = Database(settings().database_url, pool_size=1)
    try:
        return erasure_notes.unknown(database, S3ObjectStore(settings()))
    finally:
        database.engine.dispose()


def _stop_later() -> None:
    while True:
        sleep(PAUSE)
        try:
            found = _unknown()
        except (Unavailable, DBAPIError):
            continue
        if found:
            log.error("erasures.unknown", reason=str(found))
            os.kill(os.getpid(), signal.SIGTERM)
        return
