"""P4: plan statements, beside one bare INSERT … SELECT of as many rows, with no ageing, no locks and no schedule.

Ours runs `tasks.billing.statement_plan.plan` in a process of its own, which says how much memory it took at the most; a
tenth of the accounts shows that memory does not grow with their number.
"""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic

from benchmarks.measure import Better, Goal, Row, Sample, interleaved
from benchmarks.servers import Observer, Servers
from benchmarks.statement_books import fill

LINES = 3
OURS = "Tenure: statements.plan"
LIMIT = "one bare INSERT … SELECT"

#: The same rows in the same table, with its indexes, checks and trigger: nothing but what the sums need.
BARE = """
    INSERT INTO tenure.statements (
           account_id, currency, period_start, period_end, opens_at, closes_at, opening_cutoff, cutoff, opening,
           closing, line_count, not_due, days_1_30, days_31_60, days_61_90, over_90, unapplied_credit, form,
           account_ref, account_name, address, country, time_zone, language, letterhead)
    SELECT account.id, entry.currency, '2026-10-01', '2026-11-01', '2026-09-30 22:00Z', '2026-10-31 23:00Z', 0,
           max(sequence), 0, sum(amount), count(*), greatest(sum(amount), 0), 0, 0, 0, 0, greatest(-sum(amount), 0),
           'balance_forward', ref, account.name, address, country, account.time_zone, 'de-AT', sha256('bare')
      FROM tenure.accounts AS account JOIN tenure.ledger_entries AS entry ON entry.account_id = account.id
     GROUP BY account.id, entry.currency"""


def rows(servers: Servers, work: int, runs: int) -> Row:
    """P4."""
    memories: list[tuple[int, int]] = []
    measured = interleaved({LIMIT: partial(bare, servers, work), OURS: partial(ours, servers, work, memories)}, runs)
    limit, mine = measured[LIMIT], measured[OURS]
    row = Row(
        "P4",
        f"plan {work:,} statements of {LINES} lines",
        "rows/s",
        Better.HIGHER,
        mine,
        limit,
        notes=[
            "ours also ages each balance, copies the customer's details, locks the accounts and advances their schedule"
        ],
    )
    times = 1 / row.ratio(limit)
    few, many = max(memories, key=lambda pair: pair[1] / pair[0])
    row.goals = [
        Goal("≤ 3 × the bare INSERT … SELECT", f"{times:.1f} ×", times <= 3),
        Goal("flat memory", f"{many / few:.2f} × for 10 × the accounts ({many / 2**20:.0f} MiB)", many / few <= 1.2),
    ]
    return row


def ours(servers: Servers, work: int, memories: list[tuple[int, int]]) -> Sample:
    few = planned(servers, max(1, work // 10))
    many = planned(servers, work)
    assert few.memory and many.memory
    memories.append((few.memory, many.memory))
    return many


def planned(servers: Servers, work: int) -> Sample:
    with servers.database() as observer, servers.crew(observer.url) as crew:
        fill(observer, work, LINES)
        wal, used = observer.wal(), servers.cpu()
        crew.start("planner", [sys.executable, "-m", "benchmarks.planner"])
        crew.await_end("planner")
        seconds, memory, cpu = (float(word) for word in crew.log("planner").split()[-3:])
        made = _made(observer, work)
        return Sample(made / seconds, int(memory), observer.wal() - wal, servers.cpu() - used + cpu)


def bare(servers: Servers, work: int) -> Sample:
    with servers.database() as observer:
        fill(observer, work, LINES)
        observer.connection.execute("INSERT INTO tenure.letterheads (sha256, content) VALUES (sha256('bare'), '{}')")
        wal, used = observer.wal(), servers.cpu()
        begun = monotonic()
        observer.connection.execute(BARE)
        seconds = monotonic() - begun
        return Sample(_made(observer, work) / seconds, wal=observer.wal() - wal, cpu=servers.cpu() - used)


def _made(observer: Observer, work: int) -> int:
    made = int(observer.value("SELECT count(*) FROM tenure.statements WHERE line_count = %s", LINES))
    assert made == work, f"{made} statements of {work} were planned"
    return made
