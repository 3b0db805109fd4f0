"""The work row: everything that must be done once and only once is a row with these columns (W1).

    pending --claim--> running --finish--> done
       ^                  |---fail-------> pending (later) or failed
       '-- release, rescue, rescue_dead ---'

`claim` and `finish` are two transactions with the work between them and no transaction open meanwhile. A claim writes a
fresh random token into the rows; whatever is recorded later is recorded only where row *and token* still match, so a
process that was stopped past its lease, whose rows another one took over, changes nothing when it wakes.

All functions take a connection inside a transaction of the caller's, who commits. The clock is the database's. None of
them touches the outside world. They work on sets of rows: one statement for a batch, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Connection, Enum, Index, Integer, Text, Uuid, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from models.base.base import SCHEMA, Base, one_of, recorded, timestamp
from models.data_map.map import Columns

#: The longest and the shortest that a row waits for its next attempt after a bug.
LONGEST_WAIT = timedelta(hours=1)
FIRST_WAIT = timedelta(seconds=2)
#: An error is kept for a person to read, not as an archive.
ERROR_LENGTH = 2_000
#: A row is suspect if a server was away for it while others of its table were finished so short a time before.
OTHERS_WITHIN = timedelta(seconds=30)
#: How often that may happen to a row before it uses up attempts.
SPARED = 20
#: The states in which a row waits for a person.
WANTING = ("failed", "unknown")


@dataclass(frozen=True, slots=True)
class Retries:
    """When a row is tried again after a failure that may pass: the wait doubles from `first` to `longest`.

    Each wait is up to half as much again, at random, but for the longest. After about `lasting` the row is `failed`.
    """

    first: timedelta
    longest: timedelta
    lasting: timedelta

    @property
    def attempts(self) -> int:
        """How many attempts fit into `lasting`."""
        attempts, waited, wait = 1, timedelta(0), self.first
        while waited < self.lasting:
            waited += min(wait, self.longest / 1.5) * 1.25
            wait = min(2 * wait, self.longest)
            attempts += 1
        return attempts


class WorkState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Work:
    """The columns of a work row, and what a table may say differently."""

    __tablename__: str
    __data_map_columns__ = Columns(
        exported="state due_at created_at finished_at",
        left_out=dict.fromkeys(
            ("attempts", "crashes", "claim_token", "claimed_by", "lease_until", "last_error"),
            "how the platform got the work done, and nothing about the customer",
        ),
    )

    #: The states of this table; a superset of `WorkState`.
    states: ClassVar[type[StrEnum]] = WorkState
    #: After so many attempts that ended in a bug, or in the death of their process, a row is `failed`: kept, shown by
    #: `tenure work`, retried by a person. What may pass by itself is tried again as the job says (`Retries`).
    max_attempts: ClassVar[int] = 8
    #: SQL: whether the effect of a running row may be out. From then on, no failure makes it due again (E10).
    irrevocable: ClassVar[str] = "false"
    #: SQL: the state of a row whose worker vanished and which has attempts left.
    abandoned: ClassVar[str] = "'pending'"
    #: SQL: what else is set when a person asks for a row to be tried again.
    retried: ClassVar[str] = ""
    #: How long a row is kept after its end (W10). None: as long as its account. Failed rows wait for a person.
    kept: ClassVar[timedelta | None] = None
    #: SQL: which rows a person may take out of the work.
    cancellable: ClassVar[str] = "state IN ('pending', 'failed')"

    #: SQL: which rows the end of their account's contract takes out of the work (T9), and for which it waits, since
    #: nobody can tell yet what they come to.
    stoppable: ClassVar[str] = "state IN ('pending', 'running')"
    under_way: ClassVar[str] = "false"

    @declared_attr
    def state(cls) -> Mapped[str]:
        kind: Enum = one_of(cls.states, name="state")
        return mapped_column(kind, server_default=WorkState.PENDING)

    due_at: Mapped[recorded]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    #: How many attempts ended with the death of their process, or with a server that was away for this row and not for
    #: others (`doubt`). A suspect is claimed alone and last, so that its neighbours are done first (W2).
    crashes: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    claim_token: Mapped[UUID | None] = mapped_column(Uuid)
    #: `host|pid|start` of the process that holds the row, see `workers/celery/identity.py`.
    claimed_by: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[timestamp | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[recorded]
    finished_at: Mapped[timestamp | None]

    @staticmethod
    def indexes(table: str) -> tuple[Index | CheckConstraint, ...]:
        """What claiming, rescuing and pruning read; each index holds only the rows that it is for."""
        return (
            Index(f"ix_{table}_due", "due_at", "id", postgresql_where=text("state = 'pending' AND crashes = 0")),
            Index(
                f"ix_{table}_suspect",
                "due_at",
                "id",
                postgresql_where=text("state = 'pending' AND crashes > 0"),
            ),
            Index(f"ix_{table}_lease", "lease_until", postgresql_where=text("state = 'running'")),
            Index(f"ix_{table}_wanting", "due_at", postgresql_where=text(f"state IN {WANTING}")),
            Index(f"ix_{table}_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
            CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        )


def work_tables() -> Iterable[type[Work]]:
    """Every table of work rows, by name."""
    tables = (mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, Work))
    return sorted(tables, key=lambda table: table.__tablename__)


@dataclass(frozen=True, slots=True)
class Claim:
    """Rows that one process holds until `lease` runs out, and the token that proves it."""

    token: UUID
    ids: Sequence[UUID]

    def __bool__(self) -> bool:
        return bool(self.ids)


def _table(work: type[Work]) -> str:
    return f"{SCHEMA}.{work.__tablename__}"


def claim(
    connection: Connection,
    work: type[Work],
    limit: int,
    *,
    worker: str,
    lease: timedelta,
    where: str = "true",
    suspects: bool = False,
    token: UUID | None = None,
) -> Claim:
    """Take up to `limit` due rows, oldest first, and count one more attempt of each.

    `where` is a constant SQL condition by which one table feeds several queues; `suspects` asks for rows whose last
    attempt killed its process, which are never claimed together with others. `token` is given by a caller that wants
    to find its claim again after a COMMIT whose answer was lost (W3).
    """
    token = token or uuid4()
    crashed = "crashes > 0" if suspects else "crashes = 0"
    # One row with one array: psycopg makes the ids in C, where a row each would cost more than the UPDATE itself.
    ids = connection.execute(
        text(f"""
            WITH claimed AS (
                UPDATE {_table(work)} AS row
                   SET state = 'running', claim_token = :token, claimed_by = :worker, attempts = attempts + 1,
                       lease_until = clock_timestamp() + :lease
                 WHERE row.id = ANY (ARRAY(
                         SELECT due.id FROM {_table(work)} AS due
                          WHERE due.state = 'pending' AND due.{crashed} AND due.due_at <= now() AND ({where})
                          ORDER BY due.due_at, due.id LIMIT :limit FOR UPDATE SKIP LOCKED))
                RETURNING row.due_at, row.id)
            SELECT array_agg(id ORDER BY due_at, id) FROM claimed"""),
        {"token": token, "worker": worker, "lease": lease, "limit": 1 if suspects else limit},
    ).scalar_one()
    return Claim(token, ids or ())


def held(connection: Connection, work: type[Work], token: UUID) -> list[UUID]:
    """The rows that `token` still holds, oldest first: what a lost answer to a claim's COMMIT is settled with (W3)."""
    rows = connection.execute(
        text(f"SELECT id FROM {_table(work)} WHERE claim_token = :token AND state = 'running' ORDER BY due_at, id"),
        {"token": token},
    )
    return [row.id for row in rows]


def finish(connection: Connection, work: type[Work], token: UUID, ids: Iterable[UUID]) -> set[UUID]:
    """Set the rows among `ids` that `token` still holds to done, and say which these were.

    The caller writes the effect for exactly these in the same transaction. The token stays in the row as evidence for
    `finished`.
    """
    done = connection.execute(
        text(f"""
            WITH done AS (
                UPDATE {_table(work)} SET state = 'done', finished_at = clock_timestamp(), lease_until = NULL,
                       last_error = NULL
                 WHERE id = ANY (:ids) AND claim_token = :token AND state = 'running' RETURNING id)
            SELECT array_agg(id) FROM done"""),
        {"ids": list(ids), "token": token},
    ).scalar_one()
    return set(done or ())


def finished(connection: Connection, work: type[Work], token: UUID, ids: Iterable[UUID]) -> set[UUID]:
    """Which of `ids` were finished under `token`: settles a COMMIT whose answer was lost (W3)."""
    rows = connection.execute(
        text(f"SELECT id FROM {_table(work)} WHERE id = ANY (:ids) AND claim_token = :token AND state = 'done'"),
        {"ids": list(ids), "token": token},
    )
    return {row.id for row in rows}


def fail(
    connection: Connection,
    work: type[Work],
    token: UUID,
    errors: dict[UUID, str],
    *,
    permanent: bool,
    retries: Retries | None = None,
) -> set[UUID]:
    """Record why rows could not be done. A permanent failure, or the last attempt, ends in `failed`.

    Otherwise the row is due again as `retries` says; without it after 2, 4, 8 ... seconds, half as much again at
    random, an hour at most. A row whose effect may be out becomes what its table says of one whose worker vanished.
    Returns the rows that ended in `failed`.
    """
    rows = connection.execute(
        text(f"""
            UPDATE {_table(work)} AS row
               SET state = CASE WHEN {work.irrevocable} THEN {work.abandoned}
                                WHEN :permanent OR attempts >= :most THEN 'failed' ELSE 'pending' END,
                   finished_at = CASE WHEN {work.irrevocable} OR :permanent OR attempts >= :most
                                      THEN clock_timestamp() END,
                   due_at = clock_timestamp() + least(:first * 2 ^ least(attempts - 1, 20), :longest / 1.5)
                            * (1 + random() / 2),
                   lease_until = NULL, claim_token = NULL, claimed_by = NULL, last_error = failure.error
              FROM unnest(CAST(:ids AS uuid[]), CAST(:errors AS text[])) AS failure (id, error)
             WHERE row.id = failure.id AND claim_token = :token AND state = 'running'
            RETURNING row.id, row.state"""),
        {
            "ids": list(errors),
            "errors": [error.replace("\0", "")[:ERROR_LENGTH] for error in errors.values()],
            "token": token,
            "permanent": permanent,
            "most": retries.attempts if retries else work.max_attempts,
            "first": retries.first if retries else FIRST_WAIT,
            "longest": retries.longest if retries else LONGEST_WAIT,
        },
    )
    return {row.id for row in rows if row.state == WorkState.FAILED}


def release(
    connection: Connection,
    work: type[Work],
    token: UUID,
    ids: Iterable[UUID],
    *,
    wait: timedelta = timedelta(0),
    error: str | None = None,
) -> int:
    """Hand rows back unharmed: no attempt is used up. For a worker that stops (W9) or a server that is away."""
    rows = connection.execute(
        text(f"""
            UPDATE {_table(work)} SET state = 'pending', attempts = attempts - 1, lease_until = NULL,
                   claim_token = NULL, claimed_by = NULL, due_at = greatest(due_at, clock_timestamp() + :wait),
                   last_error = coalesce(:error, last_error)
             WHERE id = ANY (:ids) AND claim_token = :token AND state = 'running' AND NOT ({work.irrevocable})"""),
        {"ids": list(ids), "token": token, "wait": wait, "error": error and error[:ERROR_LENGTH]},
    )
    announce(connection, work)
    return rows.rowcount


def doubt(connection: Connection, work: type[Work], token: UUID, errors: Mapping[UUID, str], *, wait: timedelta) -> int:
    """Hand back rows for which a server was away; make them suspect if others were finished within `OTHERS_WITHIN`.

    After `SPARED` times such a row uses up attempts, and the last of these ends in `failed`. If nothing was finished
    lately, the server is away for all, and no row is to blame. A suspect waits twice as long each time, from `wait` to
    64 times that. A row whose effect may be out becomes what its table says of one whose worker vanished. Returns how
    many were made suspect or failed.
    """
    rows = connection.execute(
        text(f"""
            WITH others AS MATERIALIZED (
                SELECT coalesce(({_last_done(work)}) > clock_timestamp() - CAST(:within AS interval), false)
                       AS succeed),
            judged AS (
                SELECT row.id, failure.error, others.succeed, others.succeed AND row.crashes >= :spared AS charged,
                       others.succeed AND row.crashes >= :spared AND row.attempts >= :most AS failed
                  FROM {_table(work)} AS row CROSS JOIN others
                  JOIN unnest(CAST(:ids AS uuid[]), CAST(:errors AS text[])) AS failure (id, error)
                    ON failure.id = row.id
                 WHERE row.claim_token = :token AND row.state = 'running' FOR UPDATE OF row)
            UPDATE {_table(work)} AS row
               SET state = CASE WHEN {work.irrevocable} THEN {work.abandoned}
                                WHEN judged.failed THEN 'failed' ELSE 'pending' END,
                   finished_at = CASE WHEN {work.irrevocable} OR judged.failed THEN clock_timestamp() END,
                   attempts = row.attempts - (NOT judged.charged)::int, crashes = row.crashes + judged.succeed::int,
                   due_at = greatest(row.due_at, clock_timestamp() + :wait * 2 ^ least(row.crashes, 6)),
                   lease_until = NULL, claim_token = NULL, claimed_by = NULL, last_error = judged.error
              FROM judged WHERE row.id = judged.id
            RETURNING judged.succeed"""),
        {
            "ids": list(errors),
            "errors": [error.replace("\0", "")[:ERROR_LENGTH] for error in errors.values()],
            "token": token,
            "within": OTHERS_WITHIN,
            "spared": SPARED,
            "most": work.max_attempts,
            "wait": wait,
        },
    ).all()
    announce(connection, work)
    return sum(row.succeed for row in rows)


def give_back(connection: Connection, work: type[Work], token: UUID) -> int:
    """Take back what `token` holds, for a process that knows that its work was broken off through no fault of a row.

    Unlike a rescue it uses up no attempt and casts no suspicion; unlike a release it cannot say how far each row got.
    """
    given = connection.execute(
        text(f"""
            UPDATE {_table(work)} AS row
               SET state = next.state, attempts = attempts - (next.state = 'pending')::int, lease_until = NULL,
                   claim_token = NULL, claimed_by = NULL,
                   finished_at = CASE WHEN next.state = 'pending' THEN NULL ELSE clock_timestamp() END,
                   last_error = 'The attempt was not finished: the database was away.'
              FROM (SELECT id, {work.abandoned} AS state FROM {_table(work)}
                     WHERE state = 'running' AND claim_token = :token FOR UPDATE) AS next
             WHERE row.id = next.id"""),
        {"token": token},
    )
    if given.rowcount:
        announce(connection, work)
    return given.rowcount


def renew(connection: Connection, work: type[Work], token: UUID, lease: timedelta) -> int:
    """Hold on to what `token` still holds, for another `lease`. Returns how many rows these are."""
    return connection.execute(
        text(f"""
            UPDATE {_table(work)} SET lease_until = clock_timestamp() + :lease
             WHERE claim_token = :token AND state = 'running'"""),
        {"token": token, "lease": lease},
    ).rowcount


def rescue(connection: Connection, work: type[Work], *, grace: timedelta = timedelta(0)) -> int:
    """Take back the rows whose lease ran out and was not renewed for `grace` since a call of this found that.

    When the database's clock is set forward, the leases of all living processes run out at once. `grace` is the time
    they have to renew them. The first call that finds a lease run out notes it in `due_at`, which has no other use in
    a running row; a renewal makes the note void.
    """
    if not grace:
        return _abandon(connection, work, "lease_until < now()", {}, "its lease ran out")
    rescued = _abandon(
        connection,
        work,
        "lease_until < now() AND due_at > lease_until AND due_at <= now() - :grace",
        {"grace": grace},
        "its lease ran out",
    )
    connection.execute(
        text(f"""
            UPDATE {_table(work)} SET due_at = clock_timestamp()
             WHERE id = ANY (ARRAY(SELECT id FROM {_table(work)}
                                    WHERE state = 'running' AND lease_until < now() AND due_at <= lease_until
                                      FOR UPDATE SKIP LOCKED))""")
    )
    return rescued


def rescue_dead(connection: Connection, work: type[Work], workers: Sequence[str]) -> int:
    """Take back the rows of processes that are known to be dead, without waiting for their leases (W4)."""
    if not workers:
        return 0
    return _abandon(connection, work, "claimed_by = ANY (:workers)", {"workers": list(workers)}, "its process died")


def holders(connection: Connection, work: type[Work], host: str) -> list[str]:
    """The processes on `host` that hold rows: of these the caller says which are dead."""
    rows = connection.execute(
        text(f"""
            SELECT DISTINCT claimed_by FROM {_table(work)}
             WHERE state = 'running' AND starts_with(claimed_by, :host || '|')"""),
        {"host": host},
    )
    return [row.claimed_by for row in rows]


def _abandon(connection: Connection, work: type[Work], which: str, values: dict[str, Any], why: str) -> int:
    rescued = connection.execute(
        text(f"""
            UPDATE {_table(work)} AS row
               SET state = next.state, crashes = crashes + 1, lease_until = NULL, claim_token = NULL,
                   claimed_by = NULL,
                   finished_at = CASE WHEN next.state = 'pending' THEN NULL ELSE clock_timestamp() END,
                   due_at = clock_timestamp() + make_interval(secs => least(2 ^ crashes, 60) - 1),
                   last_error = format('Attempt %s was not finished: %s.', attempts, CAST(:why AS text))
              FROM (SELECT id, CASE WHEN crashes + 1 >= :most THEN
                                    CASE {work.abandoned} WHEN 'pending' THEN 'failed' ELSE {work.abandoned} END
                               ELSE {work.abandoned} END AS state
                      FROM {_table(work)} WHERE state = 'running' AND {which} FOR UPDATE SKIP LOCKED) AS next
             WHERE row.id = next.id"""),
        {"why": why, "most": work.max_attempts, **values},
    )
    if rescued.rowcount:
        announce(connection, work)
    return rescued.rowcount


def _first_due(work: type[Work], crashed: str, where: str) -> str:
    """SQL: when the first due row has been due. In the order of the index, since an EXISTS may be planned as a scan of
    the table where much is due: the planner then hopes to meet a due row early, and meets all of history first."""
    return f"""SELECT due_at FROM {_table(work)}
                WHERE state = 'pending' AND {crashed} AND due_at <= now() AND ({where})
                ORDER BY due_at, id LIMIT 1"""


def due(connection: Connection, asked: Sequence[tuple[type[Work], str]]) -> list[bool]:
    """Whether a claim made now would find something, for each table and constant SQL condition, in one round trip."""
    looks = ", ".join(
        " OR ".join(f"({_first_due(work, crashed, where)}) IS NOT NULL" for crashed in ("crashes = 0", "crashes > 0"))
        for work, where in asked
    )
    return list(connection.execute(text(f"SELECT ARRAY[{looks}]")).scalar_one()) if asked else []


def _last_done(work: type[Work]) -> str:
    """SQL: when a row of the table was last done. In the order of the index, for the reason that `_first_due` gives."""
    return f"""SELECT finished_at FROM {_table(work)}
                WHERE finished_at IS NOT NULL AND state = 'done' ORDER BY finished_at DESC LIMIT 1"""


def lately_done(connection: Connection, work: type[Work], within: timedelta) -> bool:
    """Whether any row of the table was done `within` this time, by any process."""
    found = connection.execute(
        text(f"""
            SELECT coalesce(({_last_done(work)}) > clock_timestamp() - CAST(:within AS interval), false)"""),
        {"within": within},
    )
    return bool(found.scalar_one())


def is_due(connection: Connection, work: type[Work], where: str = "true") -> bool:
    """Whether a claim made now would find something."""
    return due(connection, [(work, where)])[0]


def longest_wait(connection: Connection, work: type[Work], where: str = "true") -> timedelta | None:
    """For how long the row that has been due longest has waited for a claim; None where none is due."""
    looks = " UNION ALL ".join(f"({_first_due(work, crashed, where)})" for crashed in ("crashes = 0", "crashes > 0"))
    waited: timedelta | None = connection.execute(
        text(f"SELECT now() - min(due_at) FROM ({looks}) AS first")
    ).scalar_one()
    return waited


def since_last_finished(connection: Connection, work: type[Work]) -> timedelta | None:
    """How long ago the last row of this table came to its end; None where none did."""
    ago: timedelta | None = connection.execute(
        text(f"""
            SELECT now() - finished_at FROM {_table(work)}
             WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1""")
    ).scalar_one_or_none()
    return ago


def announce(connection: Connection, work: type[Work]) -> None:
    """Tell the relay, at COMMIT, that rows of this table may be due. Inserts do so by a trigger."""
    connection.execute(text("SELECT pg_notify('tenure_work', :table)"), {"table": work.__tablename__})


@dataclass(frozen=True, slots=True)
class Tally:
    """How a table of work rows stands: how many in each state, how many of the pending are due, since when."""

    states: dict[str, int]
    due: int
    oldest_due: timedelta | None


def tally(connection: Connection, work: type[Work]) -> Tally:
    counted = connection.execute(text(f"SELECT state, count(*) AS rows FROM {_table(work)} GROUP BY state"))
    states = {row.state: row.rows for row in counted}
    due = connection.execute(
        text(f"""
            SELECT count(*) AS rows, now() - min(due_at) AS oldest FROM {_table(work)}
             WHERE state = 'pending' AND due_at <= now()""")
    ).one()
    return Tally(states, due.rows, due.oldest)


def standing(connection: Connection, work: type[Work]) -> Tally:
    """The same without the rows that are at their end, of which there may be millions: read from small indexes."""
    waiting = f"(SELECT due_at FROM {_table(work)} WHERE state = 'pending' AND crashes"
    row = connection.execute(
        text(f"""
            SELECT count(*) AS pending, count(*) FILTER (WHERE due_at <= now()) AS due, now() - min(due_at) AS oldest,
                   (SELECT count(*) FROM {_table(work)} WHERE state = 'running') AS running
              FROM ({waiting} = 0) UNION ALL {waiting} > 0)) AS waiting""")
    ).one()
    wanting = connection.execute(
        text(f"SELECT state, count(*) AS rows FROM {_table(work)} WHERE state IN {WANTING} GROUP BY state")
    )
    states = {"pending": row.pending, "running": row.running} | {each.state: each.rows for each in wanting}
    return Tally(states, row.due, row.oldest if row.due else None)


def prune(connection: Connection, work: type[Work], *, limit: int) -> int:
    """Delete up to `limit` rows that ended longer ago than their table keeps them; returns how many."""
    if work.kept is None:
        return 0
    # What was exported of a customer who leaves is what has to be purged, row by row (T11).
    # One look-up a row: as a list, the frozen accounts would be looked for among all accounts first.
    frozen = "(SELECT status FROM tenure.accounts WHERE id = account_id) <> 'active'"
    spared = f"AND ({frozen}) IS NOT TRUE" if hasattr(work, "account_id") else ""
    return connection.execute(
        text(f"""
            DELETE FROM {_table(work)} WHERE id = ANY (ARRAY(
                SELECT id FROM {_table(work)}
                 WHERE finished_at <= now() - :kept AND state IN ('done', 'cancelled') {spared}
                 ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED))"""),
        {"kept": work.kept, "limit": limit},
    ).rowcount


def retry(connection: Connection, work: type[Work], ids: Iterable[UUID]) -> set[UUID]:
    """Make ended rows due again, as if new: those that failed, were cancelled, or of which nobody can tell."""
    rows = connection.execute(
        text(f"""
            UPDATE {_table(work)} SET state = 'pending', attempts = 0, crashes = 0, due_at = now(), finished_at = NULL,
                   claim_token = NULL, claimed_by = NULL {work.retried}
             WHERE id = ANY (:ids) AND state NOT IN ('pending', 'running', 'done') RETURNING id"""),
        {"ids": list(ids)},
    )
    announce(connection, work)
    return {row.id for row in rows}


def cancel(connection: Connection, work: type[Work], ids: Iterable[UUID], why: str) -> set[UUID]:
    """Take rows out of the work for good: those that wait, and those that failed. What is running goes on.

    Where a table can stop what is running, it says so by `cancellable`; the token stays, and is worth nothing.
    """
    rows = connection.execute(
        text(f"""
            UPDATE {_table(work)} SET state = 'cancelled', finished_at = now(), lease_until = NULL, last_error = :why
             WHERE id = ANY (:ids) AND ({work.cancellable}) RETURNING id"""),
        {"ids": list(ids), "why": why[:ERROR_LENGTH]},
    )
    return {row.id for row in rows}
