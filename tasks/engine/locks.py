"""A request waits for whoever writes to the account's ledger at that moment, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import is_lock_timeout
from tasks.failures import Transient

SECONDS = 5


@contextmanager
def patient(session: Session) -> Iterator[None]:
    """Raises Transient where a lock that the body takes is still held by another after `SECONDS`."""
    session.execute(text(f"SET LOCAL lock_timeout = '{SECONDS}s'"))
    try:
        yield
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise Transient("A transaction that writes to the account's ledger is still open: wait for its end.") from None
