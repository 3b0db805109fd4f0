"""What the roles of the database may do (W22): the owner migrates, workers work, the web tier asks and sees nothing.

All of it is granted by the owner after each migration, and granting it again changes nothing. Nothing is ever taken
away: what else the application's role may read or write is the operator's to say, table by table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

from models.base.base import SCHEMA
from models.data_map.map import in_sql

#: What the web tier calls. These run with their owner's rights, so that it needs none on any table.
WEB_FUNCTIONS = (
    "create_session",
    "record_entry",
    "record_mail_event",
    "record_payment_event",
    "request",
    "revoke_session",
)
#: What it reads: the sessions that are valid now.
WEB_VIEW = "live_sessions"


class RightsError(Exception):
    """The roles cannot be given their rights; the sentence says why and what to do."""


def statements(connection: Connection, *, worker: str | None, web: str | None) -> Sequence[str]:
    """The GRANTs, in their order. Raises RightsError where they would not do what they are for."""
    if worker is None and web is None:
        raise RightsError("name the role of the workers, of the web tier, or both")
    if worker == web:
        raise RightsError(f"{web} cannot be both: who asks for work is to see none of it")
    owner = _owner(connection)
    for role in filter(None, (worker, web)):
        _check(connection, role, owner)
    granted = [*(_of_the_worker(worker, owner) if worker else ()), *(_of_the_web(connection, web) if web else ())]
    return [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {', '.join(in_sql(r) for r in (worker, web) if r)}", *granted]


def _owner(connection: Connection) -> str:
    row = connection.execute(
        text("""
            SELECT pg_get_userbyid(nspowner) AS owner, pg_has_role(nspowner, 'USAGE') AS ours
              FROM pg_namespace WHERE nspname = :schema"""),
        {"schema": SCHEMA},
    ).one_or_none()
    if row is None:
        raise RightsError("this database has no schema tenure: run tenure migrate first")
    if not row.ours:
        raise RightsError(f"only {row.owner}, who owns the schema {SCHEMA}, can grant these: connect as that role")
    return str(row.owner)


def _check(connection: Connection, role: str, owner: str) -> None:
    row = connection.execute(
        text("SELECT rolsuper, pg_has_role(rolname, :owner, 'MEMBER') AS owns FROM pg_roles WHERE rolname = :role"),
        {"role": role, "owner": owner},
    ).one_or_none()
    if row is None:
        raise RightsError(f"there is no role {role}: CREATE ROLE {in_sql(role)} LOGIN PASSWORD '…'")
    if row.rolsuper:
        raise RightsError(f"{role} is a superuser, who may everything: give this work to an ordinary role")
    if row.owns:
        raise RightsError(f"{role} is {owner}, who owns the tables, or a member of it: give this work to another role")


def _of_the_worker(role: str, owner: str) -> Iterator[str]:
    to = f"TO {in_sql(role)}"
    rights = {"TABLES": "SELECT, INSERT, UPDATE, DELETE", "SEQUENCES": "USAGE", "FUNCTIONS": "EXECUTE"}
    for kind, right in rights.items():
        yield f"GRANT {right} ON ALL {kind} IN SCHEMA {SCHEMA} {to}"
        # What later versions add, so that a worker is not without it between migrating and granting.
        yield f"ALTER DEFAULT PRIVILEGES FOR ROLE {in_sql(owner)} IN SCHEMA {SCHEMA} GRANT {right} ON {kind} {to}"


def _of_the_web(connection: Connection, role: str) -> Iterator[str]:
    functions = connection.execute(
        text("""
            SELECT format('%I.%I(%s)', CAST(:schema AS text), proname, pg_get_function_identity_arguments(p.oid))
              FROM pg_proc AS p
             WHERE p.pronamespace = CAST(:schema AS regnamespace) AND p.proname = ANY (:names) ORDER BY 1"""),
        {"schema": SCHEMA, "names": list(WEB_FUNCTIONS)},
    ).scalars()
    yield f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {in_sql(role)}"
    yield f"GRANT SELECT ON {SCHEMA}.{WEB_VIEW} TO {in_sql(role)}"
