"""What evidence for a promise is. `workers/observe/promises/report.py` lists the promises and their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import Connection, text

from workers.settings.settings import Settings

#: Evidence is taken from what came to its end within this time. What is older was judged when it was new, so the
#: cost of a look does not grow with the age of the company.
NEW = timedelta(days=1)
#: Up to so many rows are counted. Of more, the figure is PostgreSQL's own estimate.
COUNTED = 500


class Verdict(StrEnum):
    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "not measurable"


@dataclass(frozen=True, slots=True)
class Evidence:
    verdict: Verdict
    #: The figure, or why there is none.
    figure: str


@dataclass(frozen=True, slots=True)
class Installation:
    """What evidence is taken from."""

    settings: Settings
    connection: Connection


def judged(kept: bool, figure: str) -> Evidence:
    return Evidence(Verdict.KEPT if kept else Verdict.BROKEN, figure)


def how_many(connection: Connection, table: str) -> str:
    """The number of rows of `table`: `12`, or `about 2,000,000` by the statistics that autovacuum keeps.

    `table` is a constant name with its schema; of a partitioned table, the partitions are added up.
    """
    row = connection.execute(
        text(f"""
            SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT :counted + 1) AS few) AS counted,
                   (SELECT coalesce(sum(greatest(leaf.reltuples, 0)), 0)::bigint
                      FROM pg_partition_tree(CAST(:table AS regclass)) AS part
                      JOIN pg_class AS leaf ON leaf.oid = part.relid WHERE part.isleaf) AS estimated"""),
        {"counted": COUNTED, "table": table},
    ).one()
    return f"{row.counted}" if row.counted <= COUNTED else f"about {max(row.estimated, row.counted):,}"


def unfinished(table: str, columns: str = "") -> str:
    """SQL: the rows of a work table that failed, or are still to be done though made longer than `:patience` ago.

    Each branch reads an index that holds no finished row.
    """
    late = "created_at < now() - :patience"
    branches = (
        "state IN ('failed', 'unknown')",
        f"state = 'pending' AND crashes = 0 AND {late}",
        f"state = 'pending' AND crashes > 0 AND {late}",
        f"state = 'running' AND {late}",
    )
    return " UNION ALL ".join(f"SELECT {columns} FROM {table} WHERE {branch}" for branch in branches)
