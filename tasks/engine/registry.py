"""Every job that drains a table of work rows, in one table: the relay wakes them, the operator's commands list them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.billing import invoices, statements
from tasks.certificates import publishing
from tasks.collection import attempts, events, reconciliation
from tasks.engine.drain import Job
from tasks.mail import send
from tasks.purge import retentions
from tasks.requests import handle
from tasks.termination import advancing

JOBS: Sequence[Job[Any, Any]] = (
    handle.HANDLE,
    send.SEND_URGENT,
    send.SEND,
    attempts.COLLECT,
    attempts.SETTLE,
    events.READ,
    reconciliation.RECONCILE,
    statements.RENDER,
    statements.RENDER_LONG,
    invoices.RENDER,
    advancing.ADVANCE,
    advancing.EXPORT,
    advancing.PURGE,
    publishing.PUBLISH,
    retentions.END,
)
