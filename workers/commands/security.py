"""`tenure security`: audit the dependencies, list the findings, accept one (P5.1b, W24)."""

from __future__ import annotations

from datetime import datetime, timedelta

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.schema.security_audit import DEADLINE
from tasks.security import dependency_audit
from workers.settings.settings import settings
from workers.terminal.options import DAY, as_json
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors

security = click.Group("security")

LONGEST_ACCEPTANCE = timedelta(days=366)

OPEN = text("""
    SELECT package, version, advisory, fixed_in, extract(day FROM now() - first_seen)::int AS age_days,
           extract(day FROM first_seen + :deadline - now())::int AS days_left,
           coalesce(accepted_until >= now()::date, false) AS accepted, accepted_until, accepted_why
      FROM tenure.security_findings WHERE gone_at IS NULL ORDER BY first_seen, package, advisory""")

ACCEPT = text("""
    UPDATE tenure.security_findings SET accepted_until = :until, accepted_why = :why
     WHERE package = :package AND gone_at IS NULL AND (advisory = :advisory OR :advisory = ANY (aliases))""")


@security.command()
@reports_errors
def audit() -> int:
    """Audit every installed package now.

    Exits with 1 if a finding is open that nobody has accepted, or if the vulnerability database does not answer.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.wiring import bootstrap  # noqa: PLC0415 - Celery is needed for this command alone

    ports = bootstrap.ports(settings(), app)
    if ports.auditor is None:
        raise WrongUse("nothing is audited with TENURE_MODE=local: set TENURE_OSV_URL.")
    counts = dependency_audit.audit(ports, every=timedelta(0))
    if "unavailable" in counts:
        raise CommandFailed("the vulnerability database gave no answer; the next tick tries again.")
    if not counts["packages"]:
        click.echo("An audit is under way in another process.")
        return 0
    click.echo(f"{counts['packages']} packages looked up.")
    return _findings(json=False)


@security.command()
@as_json
@reports_errors
def findings(json: bool) -> int:
    """List the open findings.

    Prints their age and the versions that fix them. Exits with 1 if there is one that nobody has accepted.
    """
    return _findings(json)


def _findings(json: bool) -> int:
    with Database(settings().database_url, pool_size=1).connection() as connection:
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


@security.command()
@click.argument("package")
@click.argument("advisory")
@click.option("--until", type=DAY, metavar="YYYY-MM-DD", required=True, help="The day on which to check this again.")
@click.option("--why", required=True, help="Why it does no harm here.")
@reports_errors
def accept(package: str, advisory: str, until: datetime, why: str) -> None:
    """Record that a finding does no harm here."""
    if not why.strip():
        raise WrongUse("--why must say why it does no harm here.")
    day = until.date()
    with Database(settings().database_url, pool_size=1).connection() as connection:
        today = connection.execute(text("SELECT now()::date")).scalar_one()
        if not today < day <= today + LONGEST_ACCEPTANCE:
            raise WrongUse(f"--until {day} must be a day in the year that comes.")
        values = {"package": package.lower(), "advisory": advisory, "until": day, "why": why.strip()}
        accepted = connection.execute(ACCEPT, values).rowcount
    if not accepted:
        raise WrongUse(f"there is no open finding {advisory!r} of {package!r}: see tenure security findings.")
    click.echo(f"{advisory} of {package} is accepted until {day}.")
