"""What happens when processes of a worker begin, lose a sibling, and are asked to stop."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from celery import signals
from sqlalchemy.exc import DBAPIError

from models.base.server_version import too_old
from models.base.unit_of_work import Database, is_outage, outage_reason
from tasks.engine.rescue import rescue_all
from tasks.failures import Permanent, Unavailable
from tasks.ports import context
from tasks.ports.context import Ports
from tasks.ports.sessions import SessionStore
from workers.celery import logs, restored
from workers.celery.liveness import LIVENESS, folder_of
from workers.celery.stopping import ask_to_stop
from workers.settings.settings import settings

log = structlog.get_logger()


def check_server_version(**_: Any) -> None:
    """End this process with a sentence if PostgreSQL is too old; it would look like one that is away, for ever."""
    if (trouble := too_old(settings().database_url)) is not None:
        sys.exit(f"tenure: {trouble}")


def connect(ports: Callable[[], Ports], session_stores: Callable[[Database], Iterable[SessionStore]]) -> None:
    """Attach to the signals of Celery; called once, when the app is made.

    `ports` builds those of a process, `session_stores` the stores that are checked before the worker starts.
    """
    context.provide(ports)

    @signals.setup_logging.connect(weak=False)
    def set_up_logging(loglevel: int | None = None, **_: Any) -> None:
        chosen = settings().log_format or ("json" if settings().mode == "production" else "text")
        logs.configure(json=chosen == "json", level=loglevel or 20)

    signals.worker_init.connect(check_server_version, weak=False)

    @signals.worker_init.connect(weak=False)
    def check_session_stores(**_: Any) -> None:
        """A store that is not what its settings say stops the worker before anything is deleted (S5)."""
        # Not the ports of this process, which children would inherit with their connections.
        for store in session_stores(Database(settings().database_url, pool_size=1)):
            try:
                store.check()
            except Unavailable as failure:
                log.warning("sessions.unavailable", store=store.name, reason=str(failure))
            except Permanent as failure:
                sys.exit(f"tenure: {failure}")
            finally:
                # Children are forked soon, and must not share a connection.
                store.close()

    signals.worker_init.connect(restored.refuse, weak=False)

    @signals.worker_init.connect(weak=False)
    def note_that_we_live(sender: Any = None, **_: Any) -> None:
        LIVENESS.begin(str(sender.hostname), folder_of(settings().database_url, settings().broker_url))

    @signals.worker_before_create_process.connect(weak=False)
    def share_memory(**_: Any) -> None:
        """Once, before the first fork: the collector would write into, and so copy, every page that children share."""
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()

    @signals.worker_process_init.connect(weak=False)
    def begin(**_: Any) -> None:
        """In a new child, after the fork: connections of its own. It may follow one that died: rescue its rows."""
        context.provide(ports)
        try:
            rescued = rescue_all(context.current())
        except DBAPIError as error:
            if not is_outage(error):
                raise
            log.warning("postgresql.unavailable", reason=outage_reason(error))
        else:
            if rescued:
                log.warning("work.rescued", rows=rescued)

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        ask_to_stop()

    @signals.worker_shutdown.connect(weak=False)
    def note_the_end(**_: Any) -> None:
        LIVENESS.end()

    @signals.worker_process_shutdown.connect(weak=False)
    def end(**_: Any) -> None:
        current = context.current()
        current.mailer.close()
        if current.payments is not None:
            current.payments.close()
        current.database.engine.dispose()
