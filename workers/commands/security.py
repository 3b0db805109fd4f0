"""`tenure security`: what the audits of dependencies found, and what was decided about it (P5.1b, W24)."""

from __future__ import annotations

from datetime import date, timedelta

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.schema.security_audit import DEADLINE
from tasks.security import dependency_audit
from workers.settings.settings import settings
from workers.terminal.output import in_words, print_json

LONGEST_ACCEPTANCE = timedelta(days=366)

OPEN = text("""
    SELECT package, version, advisory, fixed_in, extract(day FROM now() - first_seen)::int AS age_days,
           extract(day FROM first_seen + :deadline - now())::int AS days_left,
           coalesce(accepted_until >= now()::date, false) AS accepted, accepted_until, accepted_why
      FROM tenure.security_findings WHERE gone_at IS NULL ORDER BY first_seen, package, advisory""")

ACCEPT = text("""
    UPDATE tenure.security_findings SET accepted_until = :until, accepted_why = :why
     WHERE package = :package AND gone_at IS NULL AND (advisory = :advisory OR :advisory = ANY (aliases))""")


def audit() -> int:
    """Look now, whenever it was looked last; 1 where something is open or nothing could be seen."""
    from workers.app import app  # noqa: PLC0415
    from workers.wiring import bootstrap  # noqa: PLC0415 - Celery is needed for this command alone

    with in_words():
        ports = bootstrap.ports(settings(), app)
        if ports.auditor is None:
            click.echo("tenure: nothing is audited with TENURE_MODE=local: set TENURE_OSV_URL.", err=True)
            return 2
        counts = dependency_audit.audit(ports, every=timedelta(0))
    if "unavailable" in counts:
        click.echo("tenure: the vulnerability database gave no answer; the next tick tries again.", err=True)
        return 1
    if not counts["packages"]:
        click.echo("An audit is under way in another process.")
        return 0
    click.echo(f"{counts['packages']} packages looked up.")
    return findings(json=False)


def findings(json: bool) -> int:
    """What is open; 1 where anything is that nobody has accepted."""
    with in_words(), Database(settings().database_url, pool_size=1).connection() as connection:
        rows = connection.execute(OPEN, {"deadline": DEADLINE}).all()
    wanting = int(not all(row.accepted for row in rows))
    if json:
        print_json([dict(row._mapping) for row in rows])
        return wanting
    if not rows:
        click.echo("No known vulnerability is open.")
        return wanting
    table = Table(box=None, pad_edge=False)
    for heading in ("package", "version", "advisory", "fixed in", "age", "due in", "accepted"):
        table.add_column(heading, justify="right" if heading in {"age", "due in"} else "left", overflow="fold")
    for row in rows:
        left = f"{row.days_left} d" if row.days_left >= 0 else "overdue"
        table.add_row(
            row.package,
            row.version,
            row.advisory,
            ", ".join(row.fixed_in) or "none yet",
            f"{row.age_days} d",
            "" if row.accepted else left,
            f"until {row.accepted_until}: {row.accepted_why}" if row.accepted_until else "",
        )
    Console().print(table)
    return wanting


def accept(package: str, advisory: str, until: date, why: str) -> int:
    """Record that a finding does no harm here, why, and until when that is believed."""
    if not why.strip():
        click.echo("tenure: --why must say why it does no harm here.", err=True)
        return 2
    with in_words(), Database(settings().database_url, pool_size=1).connection() as connection:
        today = connection.execute(text("SELECT now()::date")).scalar_one()
        if not today < until <= today + LONGEST_ACCEPTANCE:
            click.echo(f"tenure: --until {until} must be a day in the year that comes.", err=True)
            return 2
        values = {"package": package.lower(), "advisory": advisory, "until": until, "why": why.strip()}
        accepted = connection.execute(ACCEPT, values).rowcount
    if not accepted:
        click.echo(
            f"tenure: there is no open finding {advisory!r} of {package!r}: see tenure security findings.", err=True
        )
        return 2
    click.echo(f"{advisory} of {package} is accepted until {until}.")
    return 0
