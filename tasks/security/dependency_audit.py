"""The audit of dependencies: known vulnerabilities of what is installed, found by schedule (P5.1b, W24).

Ticked every hour; an audit is due when the last one that saw something is a day old, so a tick too many does nothing
and a day without network is caught up. What was found stays on record until a later audit no longer finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from celery import shared_task
from sqlalchemy import Connection, text

from tasks.engine.task import Tick
from tasks.failures import Unavailable
from tasks.ports.audit import Vulnerability
from tasks.ports.context import Ports, current

log = structlog.get_logger()

TASK = "security.audit_dependencies"
EVERY = timedelta(hours=23)
#: No audit lasts longer: one that began before that and has no end died.
LONGEST = timedelta(minutes=10)
#: One planner at a time: any constant will do.
LOCK = 5_105_124

BEGIN = text("""
    INSERT INTO tenure.security_audits (begun_at)
    SELECT clock_timestamp() WHERE NOT EXISTS (
        SELECT FROM tenure.security_audits
         WHERE begun_at > clock_timestamp() - :every AND packages IS NOT NULL
            OR begun_at > clock_timestamp() - :longest AND ended_at IS NULL)
    RETURNING id""")

RECORD = text("""
    INSERT INTO tenure.security_findings AS finding (package, version, advisory, aliases, fixed_in)
    SELECT package, version, advisory, string_to_array(aliases, ' '), string_to_array(fixed_in, ' ')
      FROM unnest(CAST(:packages AS text[]), CAST(:versions AS text[]), CAST(:advisories AS text[]),
                  CAST(:aliases AS text[]), CAST(:fixed_in AS text[]))
           AS found (package, version, advisory, aliases, fixed_in)
    ON CONFLICT (package, version, advisory) DO UPDATE
       SET last_seen = now(), gone_at = NULL, aliases = excluded.aliases, fixed_in = excluded.fixed_in""")

GONE = text("""
    UPDATE tenure.security_findings SET gone_at = now()
     WHERE gone_at IS NULL AND last_seen < now() RETURNING advisory""")


def audit(ports: Ports, *, every: timedelta = EVERY) -> dict[str, int]:
    """Audit if one is due. Returns how many packages were looked up, and how many findings are open."""
    if ports.auditor is None:
        return {"packages": 0}
    with ports.database.connection() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        begun = connection.execute(BEGIN, {"every": every, "longest": LONGEST}).scalar_one_or_none()
    if begun is None:
        return {"packages": 0}
    try:
        packages, found = ports.auditor()
    except Unavailable as error:
        log.warning("security.not_audited", reason=str(error))
        with ports.database.connection() as connection:
            _end(connection, begun, packages=None, error=str(error))
        return {"unavailable": 1}
    with ports.database.connection() as connection:
        connection.execute(RECORD, _columns(found))
        gone = connection.execute(GONE).all()
        _end(connection, begun, packages=packages, error=None)
    for each in found:
        log.warning("security.vulnerable", package=each.package, version=each.version, advisory=each.advisory)
    return {"packages": packages, "vulnerable": len(found), "gone": len(gone)}


def _columns(found: Sequence[Vulnerability]) -> dict[str, list[str]]:
    # The same advisory may come twice, under two names of one package.
    unique = {(each.package, each.version, each.advisory): each for each in found}.values()
    return {
        "packages": [each.package for each in unique],
        "versions": [each.version for each in unique],
        "advisories": [each.advisory for each in unique],
        "aliases": [" ".join(each.aliases) for each in unique],
        "fixed_in": [" ".join(each.fixed_in) for each in unique],
    }


def _end(connection: Connection, audit_id: UUID, *, packages: int | None, error: str | None) -> None:
    connection.execute(
        text("""
            UPDATE tenure.security_audits SET ended_at = clock_timestamp(), packages = :packages, error = :error
             WHERE id = :id"""),
        {"id": audit_id, "packages": packages, "error": error},
    )


@shared_task(name=TASK, base=Tick)
def audit_dependencies() -> dict[str, int]:
    return audit(current())
