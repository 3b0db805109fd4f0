"""Terminations that have come as far as the purge, and what is left after it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys, belongs, relation
from models.termination.termination import Step
from tasks.ports.context import Ports
from tests.support.rows.terminating import a_termination

#: A record that was sealed and delivered, as far as the purge looks at it.
DELIVERED = text("""
    UPDATE tenure.terminations SET stage = :stage, frozen_at = now(), archive_key = 'archives/1',
           archive_sha256 = sha256(''),
           manifest_sha256 = sha256(''), sealed_at = now(), exported_rows = :rows, delivered_at = now(),
           delivered_by = 'download',
           correspondence = jsonb_build_object('account_ref', CAST(:ref AS text))
     WHERE id = :id""")
WAY = ("grace", "frozen", "exporting", "sealed", "delivered")


def counts(ports: Ports, account: AccountKeys) -> dict[str, dict[str, int]]:
    """How many rows each table of the whole map holds of the account, by database and table."""
    estate = ports.estate()
    found: dict[str, dict[str, int]] = {}
    for table in estate.map.tables:
        with estate.databases[table.database].connection() as connection:
            rows = select(func.count()).select_from(relation(table.name)).where(belongs(table, account))
            found.setdefault(table.database, {})[str(table.name)] = connection.execute(rows).scalar_one()
    return found


def a_delivered_termination(ports: Ports, account: AccountKeys, *steps: Step) -> UUID:
    """One whose record holds what is there now, and whose next step is the purge."""
    rows = json.dumps(counts(ports, account))
    with ports.database.transaction() as session:
        termination = a_termination(session, account.id, *(steps or (Step.PURGE,))).id
    for stage in WAY:
        with ports.database.connection() as connection:
            connection.execute(DELIVERED, {"id": termination, "stage": stage, "rows": rows, "ref": account.ref})
    return termination


def passes(database: Database) -> list[Any]:
    """The stores of all passes, in their order."""
    with database.connection() as connection:
        return list(connection.execute(text("SELECT * FROM tenure.purge_stores ORDER BY pass_number, number")))


def everything(ports: Ports, besides: AccountKeys) -> dict[str, list[str]]:
    """Every row of every table but those of one account, as text: to compare before and after, byte for byte."""
    estate = ports.estate()
    found: dict[str, list[str]] = {}
    for table in estate.map.tables:
        with estate.databases[table.database].connection() as connection:
            of_others = select(text("t::text")).select_from(relation(table.name).alias("t"))
            rows = connection.execute(of_others.where(belongs(table, besides).is_not(True)))
            found[f"{table.database} {table.name}"] = sorted(row[0] for row in rows)
    return found


def failure(database: Database) -> str:
    """What the step says that did not come to its end."""
    with database.connection() as connection:
        said = connection.execute(text("SELECT last_error FROM tenure.termination_steps WHERE last_error IS NOT NULL"))
        return " | ".join(row[0] for row in said)
