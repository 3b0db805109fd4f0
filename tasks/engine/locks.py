"""Lock timeouts: give up on a lock after a while and let the job be retried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import is_conflict
from tasks.failures import Transient

#: How long a request waits for the account's ledger.
LOCK_TIMEOUT = timedelta(seconds=5)


def bound_locks(session: Session, wait: timedelta) -> None:
    """Let every statement of the transaction wait at most `wait` for each lock; then PostgreSQL raises 55P03."""
    session.execute(text(f"SET LOCAL lock_timeout = {int(wait.total_seconds() * 1000)}"))


@contextmanager
def lock_timeout(
    session: Session,
    wait: timedelta | None = None,
    why: str = "A transaction that writes to the account's ledger is still open: wait for its end.",
) -> Iterator[None]:
    """Bound every lock taken inside to `wait`, `LOCK_TIMEOUT` by default.

    Raises Transient with `why` if another transaction holds a lock for longer, or if the two wait for each other.
    """
    bound_locks(session, LOCK_TIMEOUT if wait is None else wait)
    try:
        yield
    except DBAPIError as error:
        if not is_conflict(error):
            raise
        raise Transient(why) from None
