"""The loop that all work goes through: claim some, do it with no transaction open, record it, until nothing is due.

A message only starts this loop. How often it is started, lost, repeated or reordered changes nothing but when.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum, auto
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database, is_away, is_conflict, is_outage, is_shortage, outage_reason, sqlstate
from models.work import row as work
from models.work.control import allowance, give_back
from models.work.counter import count
from models.work.row import Claim
from tasks.engine.failpoints import failpoint
from tasks.engine.job import AlreadyEnded, ClaimedRow, Item, Job, Result
from tasks.engine.lease import give_back_later, renewed, rescue
from tasks.failures import Doubtful, Failure, Permanent, Transient, Unavailable, describe, place
from tasks.ports.context import Ports

log = structlog.get_logger()


#: How long rows rest when a server is away. No attempt is used up; the next tick is the next try.
UNAVAILABLE_WAIT = timedelta(seconds=5)
#: For so many rows in a row a server has to be away before a drain ends: the first of them may be to blame itself.
AWAY_FOR_ALL = 2
#: How long a row rests over which a server broke off, when no other got through either: the others go first.
DOUBTFUL_WAIT = timedelta(seconds=30)
#: How many rows in succession a server may break off over before no more are tried.
DOUBTFUL_ROWS = 5
#: A row that got through so lately, in any process, shows that the server is there.
LATELY = timedelta(minutes=1)
#: Seconds between two tries to record what cannot be repeated.
RECORD_PAUSE = 0.5
#: Seconds between two looks whether work that goes first waits for a process.
GIVE_WAY_LOOK = 0.25


def drain(job: Job[Item, Result], ports: Ports) -> dict[str, int]:
    """Do what is due until nothing is, the budget ends or the process is asked to stop. Returns small counts."""
    counts: Counter[str] = Counter()
    budget = _Budget(job, ports)
    counts["rescued"] = rescue(job.table, ports)
    more, joined = True, False
    while more and not budget.over():
        # A suspect is tried alone, and after the others: if it kills this process, they have been done.
        claimed = _claim(job, ports) or _claim(job, ports, suspects=True)
        if len(claimed.ids) >= job.batch and not joined:
            # There may be work for one more: it asks for the next, and so on, until no process is free.
            ports.wake(job.task)
            joined = True
        try:
            more = bool(claimed) and _perform(job, claimed, ports, counts, budget)
        except DBAPIError as error:
            if is_outage(error):
                give_back_later(job.table, claimed.token, ports)
            raise
    if more:
        # The budget ended with work left, or the process is stopping: someone else goes on.
        ports.wake(job.task)
    if counts[job.done]:
        for task in job.wakes:
            ports.wake(task)
    return {job.done: counts.pop(job.done, 0)} | {name: count for name, count in counts.items() if count}


class _Budget:
    """How long a drain goes on: its time, until the process is asked to stop, or until work that goes first waits."""

    def __init__(self, job: Job[Any, Any], ports: Ports) -> None:
        self._job = job
        self._ports = ports
        self._looked = monotonic()
        self._ends = self._looked + ports.budget.total_seconds()

    def over(self) -> bool:
        now = monotonic()
        if now >= self._ends or self._ports.stopping():
            return True
        if self._job.yields_to and now - self._looked >= GIVE_WAY_LOOK:
            self._looked = now
            if any(self._ports.wake.waits(task) for task in self._job.yields_to):
                self._ends = now
                return True
        return False


def _claim(job: Job[Item, Result], ports: Ports, *, suspects: bool = False) -> Claim:
    token = uuid4()
    try:
        with ports.database.connection() as connection:
            allowed = 1 if suspects else job.batch
            taken: dict[str, int] = {}
            for limit, where in [*((limit, "true") for limit in job.limits), (job.task, job.where)]:
                taken[limit] = allowed = allowance(connection, job.table, limit, allowed, where)
            claimed = Claim(token, ())
            if allowed:
                claimed = work.claim(
                    connection,
                    job.table,
                    allowed,
                    worker=ports.worker,
                    lease=ports.lease,
                    where=job.where,
                    suspects=suspects,
                    token=token,
                )
            for limit, number in taken.items():
                give_back(connection, limit, number - len(claimed.ids))
            if not allowed:
                return claimed
            failpoint(job.task, "before_claim_commit")
        failpoint(job.task, "after_claim")
        return claimed
    except DBAPIError as error:
        if not is_away(error):
            raise
        # The answer to COMMIT may be what was lost: then the rows are ours, under a token that only we know (W3).
        try:
            with ports.database.connection() as connection:
                return Claim(token, work.held(connection, job.table, token))
        except DBAPIError:
            give_back_later(job.table, token, ports)
            raise


def _perform(job: Job[Item, Result], claimed: Claim, ports: Ports, counts: Counter[str], budget: _Budget) -> bool:
    """Do one claim, or what of it the budget permits. False where the drain had better end: a server is away."""
    with renewed(job.table, claimed.token, ports):
        items, failures = _load(job, claimed.ids, ports)
        results: dict[UUID, Result] = {}
        rows = [row for row in claimed.ids if row not in failures] if failures else claimed.ids
        away = {row: error for row, error in failures.items() if isinstance(error, Unavailable)}
        doubts = _Doubts(job, ports)
        #: Why no more rows are tried.
        stopped: Unavailable | None = None
        tried = away_in_a_row = 0
        # One item at the least, however short the budget: else a slow kind of work would never be done.
        while tried < len(rows) and stopped is None and not (budget.over() if tried else ports.stopping()):
            row = rows[tried]
            tried += 1
            try:
                results[row] = job.act(items[row], ClaimedRow(ports, row, claimed.token))
                away_in_a_row = 0
                doubts.got_through()
                failpoint(job.task, "after_act")
            except AlreadyEnded:
                away_in_a_row = 0
                counts["settled"] += 1
            except Doubtful as error:
                stopped = doubts.add(row, error)
            except Exception as error:
                failure = _classified(error)
                if isinstance(failure, Unavailable):
                    away[row] = failure
                    away_in_a_row += 1
                    stopped = failure if away_in_a_row >= AWAY_FOR_ALL else None
                else:
                    failures[row] = failure
                    away_in_a_row = 0
            if len(results) >= job.record_every:
                _record(job, claimed.token, results, ports, counts)
                results = {}
        _record(job, claimed.token, results, ports, counts)
        if doubts.rows and doubts.others_get_through():
            failures |= {row: Transient(str(error)) for row, error in doubts.rows.items()}
        elif doubts.rows:
            stopped = stopped or next(iter(doubts.rows.values()))
            log.warning("work.unavailable", task=job.task, reason=str(stopped), rows=len(doubts.rows))
            with ports.database.connection() as connection:
                counts["handed_back"] += work.release(
                    connection, job.table, claimed.token, doubts.rows, wait=DOUBTFUL_WAIT, error=str(stopped)
                )
        _fail(job, claimed.token, {row: failures[row] for row in failures if row not in away}, ports, counts)
        doubted = _set_aside(job, claimed.token, away, ports, counts)
        if left := rows[tried:]:
            # What was not tried goes before what was.
            why = stopped or (away[rows[tried - 1]] if away_in_a_row else None)
            wait = (why.wait or UNAVAILABLE_WAIT) if why else timedelta(0)
            with ports.database.connection() as connection:
                counts["handed_back"] += work.release(
                    connection, job.table, claimed.token, left, wait=wait, error=str(why) if why else None
                )
    return stopped is None and doubted == len(away)


def _classified(error: Exception) -> Exception:
    """What a failure of one row means: PostgreSQL's own errors as Unavailable or Transient; others as they are.

    Raises the error again if the connection to PostgreSQL is gone: then nothing can be recorded.
    """
    if not isinstance(error, DBAPIError):
        return error
    if is_away(error):
        raise error
    if is_shortage(error):
        return Unavailable(f"PostgreSQL could not do it now: {outage_reason(error)} (SQLSTATE {sqlstate(error)}).")
    if is_conflict(error):
        return Transient(f"Another transaction was in the way (SQLSTATE {sqlstate(error)}).")
    return error


def _set_aside(
    job: Job[Any, Any], token: UUID, away: Mapping[UUID, Unavailable], ports: Ports, counts: Counter[str]
) -> int:
    """Hand back the rows for which a server was away; returns how many of them are suspect (`work.doubt`)."""
    if not away:
        return 0
    reasons = {row: str(error) for row, error in away.items()}
    wait = max((error.wait for error in away.values() if error.wait), default=2 * UNAVAILABLE_WAIT)
    with ports.database.connection() as connection:
        doubted = work.doubt(connection, job.table, token, reasons, wait=wait)
    counts["handed_back"] += len(away)
    log.warning(
        "work.unavailable", task=job.task, reason=next(iter(reasons.values())), rows=len(away), suspects=doubted
    )
    return doubted


class _Doubts:
    """Rows of one claim over which a server broke off. It is to blame, or they are: that depends on the others."""

    def __init__(self, job: Job[Any, Any], ports: Ports) -> None:
        self._job = job
        self._ports = ports
        self._others = False
        self._in_succession = 0
        self.rows: dict[UUID, Doubtful] = {}

    def got_through(self) -> None:
        self._others = True
        self._in_succession = 0

    def add(self, row: UUID, error: Doubtful) -> Unavailable | None:
        """Note a row; returns the error where no more had better be tried."""
        self.rows[row] = error
        self._in_succession += 1
        if self._in_succession >= DOUBTFUL_ROWS and not self.others_get_through():
            return error
        return None

    def others_get_through(self) -> bool:
        if not self._others:
            with self._ports.database.connection() as connection:
                self._others = work.lately_done(connection, self._job.table, LATELY)
        return self._others


def _load(
    job: Job[Item, Result], rows: Sequence[UUID], ports: Ports
) -> tuple[Mapping[UUID, Item], dict[UUID, Exception]]:
    """What the rows need, and the rows that cannot be read. One of these does not hold up the others."""
    try:
        with ports.database.snapshot() as session:
            return job.load(session, rows), {}
    except Exception as error:
        failure = _classified(error)
        if len(rows) == 1:
            return {}, {rows[0]: failure}
    items: dict[UUID, Item] = {}
    failures: dict[UUID, Exception] = {}
    for row in rows:
        loaded, failed = _load(job, [row], ports)
        items |= loaded
        failures |= failed
    return items, failures


def _record(
    job: Job[Item, Result], token: UUID, results: Mapping[UUID, Result], ports: Ports, counts: Counter[str]
) -> None:
    """Finish rows and write their effects, together. One that cannot be written does not hold up the others."""
    if not results:
        return
    try:
        counts[job.done] += _commit_effects(job, token, results, ports)
    except Exception as error:
        failure = _classified(error)
        if len(results) == 1:
            if isinstance(failure, Unavailable):
                _set_aside(job, token, dict.fromkeys(results, failure), ports, counts)
            else:
                _fail(job, token, dict.fromkeys(results, failure), ports, counts)
            return
        for row, result in results.items():
            _record(job, token, {row: result}, ports, counts)


def _commit_effects(job: Job[Item, Result], token: UUID, results: Mapping[UUID, Result], ports: Ports) -> int:
    def effects(session: Session) -> int:
        ours = work.finish(session.connection(), job.table, token, results)
        if ours:
            kept = results if len(ours) == len(results) else {row: results[row] for row in results if row in ours}
            job.record(session, kept, ports)
            count(session.connection(), job.task, job.done, len(ours))
            failpoint(job.task, "before_commit")
        if len(ours) < len(results):
            log.warning("work.taken_over", task=job.task, rows=len(results) - len(ours))
        return len(ours)

    def settle(connection: Connection) -> int | None:
        done = work.finished(connection, job.table, token, results)
        return len(done) if done else None

    recorded = commit_or_confirm(ports.database, effects, settle, lasting=job.record_for)
    failpoint(job.task, "after_commit")
    return recorded


def commit_or_confirm(
    database: Database,
    effects: Callable[[Session], int],
    settle: Callable[[Connection], int | None],
    *,
    lasting: timedelta = timedelta(0),
) -> int:
    """Run `effects` in a transaction; where the connection breaks, ask `settle` whether it was committed (W3).

    `settle` answers None where it was not; then the effects are run once more, on a new connection, and again for as
    long as `lasting` while PostgreSQL is away.
    """
    ends = monotonic() + lasting.total_seconds()
    try:
        with database.transaction() as session:
            return effects(session)
    except DBAPIError as error:
        if not is_away(error):
            raise
        log.warning("work.commit_unanswered")
    while True:
        try:
            with database.connection() as connection:
                committed = settle(connection)
            if committed is not None:
                return committed
            with database.transaction() as session:
                return effects(session)
        except DBAPIError as error:
            if not is_outage(error) or monotonic() >= ends:
                raise
        sleep(RECORD_PAUSE)


class _Kind(Enum):
    """How a row failed."""

    PERMANENT = auto()
    TRANSIENT = auto()
    BUG = auto()


def _kind(error: Exception) -> _Kind:
    if isinstance(error, Permanent):
        return _Kind.PERMANENT
    return _Kind.TRANSIENT if isinstance(error, Failure) else _Kind.BUG


def _fail(
    job: Job[Item, Result], token: UUID, failures: Mapping[UUID, Exception], ports: Ports, counts: Counter[str]
) -> None:
    # A bug is tried again a few times and then is loud, however patient the job.
    for kind, retries in ((_Kind.PERMANENT, None), (_Kind.TRANSIENT, job.retries), (_Kind.BUG, None)):
        errors = {row: describe(error) for row, error in failures.items() if _kind(error) is kind}
        if not errors:
            continue
        with ports.database.connection() as connection:
            ended = work.fail(connection, job.table, token, errors, permanent=kind is _Kind.PERMANENT, retries=retries)
            count(connection, job.task, "failed", len(ended))
            failpoint(job.task, "before_fail_commit")
        counts["failed"] += len(ended)
        counts["retried"] += len(errors) - len(ended)
    for row, error in failures.items():
        foreseen = isinstance(error, Failure)
        log.log(
            logging.WARNING if foreseen else logging.ERROR,
            "work.failed",
            task=job.task,
            row=str(row),
            kind=type(error).__name__,
            where=None if foreseen else place(error),
        )
