"""Evidence about the end of contracts for `tenure policy`: what was erased, what waits and why, what was disclosed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.base import Base
from models.base.unit_of_work import outage_reason
from models.data_map import check, live_catalogue
from models.data_map.check import Finding
from models.data_map.map import MAIN, DataMapError, own_map
from tasks.export.disclosure import APPROVALS
from tasks.failures import Permanent
from workers.observe import outbound
from workers.observe.promises.evidence import COUNTED, NEW, Evidence, Installation, Verdict, how_many, judged
from workers.terminal.output import counted
from workers.wiring.bootstrap import company

#: How long a step of a termination may be overdue.
STEP_GRACE = timedelta(days=1)
#: Parties outside that receive personal data where they are configured, as the data map has to name them (P3.1f).
STRIPE = "stripe"
SES = "amazon ses"


def disclosures_were_approved(installation: Installation) -> Evidence:
    """P4: no record was made for a case that fewer than two others approved."""
    row = installation.connection.execute(
        text("""
            SELECT count(*) AS made,
                   count(*) FILTER (WHERE :approvals > (
                       SELECT count(DISTINCT lower(approval.person)) FROM tenure.disclosure_events AS approval
                         JOIN tenure.disclosures AS disclosure ON disclosure.id = approval.disclosure_id
                        WHERE approval.disclosure_id = event.disclosure_id AND approval.action = 'approved'
                          AND lower(approval.person) <> lower(asked_by) AND approval.at <= event.at)) AS wrong
              FROM tenure.disclosure_events AS event WHERE action = 'made' AND at > now() - :new"""),
        {"approvals": APPROVALS, "new": NEW},
    ).one()
    asked = how_many(installation.connection, "tenure.disclosures")
    return judged(
        row.wrong == 0,
        f"{asked} disclosures were asked for; {row.made} records made since yesterday, "
        f"{row.wrong} without two who approved",
    )


def all_data_are_mapped(installation: Installation) -> Evidence:
    """P2.1: data map and live databases agree, so that exports lack nothing and purges leave nothing."""
    try:
        found = [each for each in _findings(installation) if each.stops]
    except Permanent as failure:
        return Evidence(Verdict.BROKEN, str(failure))
    except DBAPIError as error:
        return Evidence(Verdict.UNKNOWN, f"A database of the data map does not answer: {outage_reason(error)}")
    if found:
        return Evidence(Verdict.BROKEN, f"{len(found)} findings would stop each export and purge: {found[0]}")
    mapped = own_map(Base) + company(installation.settings).map
    columns = sum(len(each.columns) for each in mapped.tables)
    return Evidence(Verdict.KEPT, f"{len(mapped.tables)} tables with {columns} columns are mapped, and no other found")


def _findings(installation: Installation) -> Iterator[Finding]:
    estate = company(installation.settings)
    whole = own_map(Base) + estate.map
    yield from check.compare(whole, {MAIN: live_catalogue.read(installation.connection)})
    for name, database in estate.databases.items():
        try:
            with database.connection() as connection:
                yield from check.compare(whole, {name: live_catalogue.read(connection)})
        finally:
            database.engine.dispose()


def processors_are_listed(installation: Installation) -> Evidence:
    """P3.1f: every party outside to which this installation is set up to send data stands in the data map."""
    settings = installation.settings
    try:
        listed = [each.name for each in (own_map(Base) + company(settings).map).processors]
    except Permanent as failure:
        return Evidence(Verdict.BROKEN, str(failure))
    reached = [STRIPE] if settings.stripe_secret_key else []
    reached += [SES] if "ses://" in settings.mail_url else []
    known = {each.lower() for each in listed}
    missing = [each for each in reached if each not in known]
    if missing:
        return Evidence(Verdict.BROKEN, f"{missing[0].title()} receives data and is no [[processor]] of the data map")
    return Evidence(
        Verdict.KEPT,
        f"{len(listed)} processors listed; {len(reached)} are set up by the settings, each of them listed",
    )


def connections_are_configured(installation: Installation) -> Evidence:
    """P3.1f: to whom the processes of this machine have connections now, beside the addresses that settings name."""
    settings = installation.settings
    try:
        named = outbound.configured(settings, os.environ)
    except DataMapError as error:
        return Evidence(Verdict.BROKEN, f"the data map cannot be read: {error}")
    running = outbound.processes(settings.database_url)
    if not running:
        return Evidence(Verdict.UNKNOWN, "no process of this installation runs on this machine")
    seen = outbound.connections(running)
    known = outbound.resolved(named)
    strangers = seen - known
    # A name may be answered otherwise than when they connected; a port that no setting names is nobody's.
    foreign = sorted({port for _, port in strangers} - {port for _, port in known})
    if foreign:
        return Evidence(Verdict.BROKEN, f"a process is connected to port {foreign[0]}, which no setting names")
    if strangers:
        return Evidence(Verdict.UNKNOWN, f"{len(strangers)} connections lead where no name of a setting leads now")
    return Evidence(
        Verdict.KEPT,
        f"{counted(len(running), 'process', 'processes')} connected to {counted(len(seen), 'address', 'addresses')}, "
        "each of them named by a setting",
    )


def records_are_purged(installation: Installation) -> Evidence:
    """P6.1: who left got a record and is erased; who is not yet, for what reason, and that nothing is stuck."""
    rows = installation.connection.execute(
        text("""
            SELECT termination.stage, count(*) AS number,
                   count(*) FILTER (WHERE EXISTS (
                       SELECT FROM tenure.termination_steps AS step WHERE step.termination_id = termination.id
                          AND (step.state = 'failed' OR step.state IN ('pending', 'running')
                               AND step.due_at < now() - :patience)) AND stage <> 'held') AS late
              FROM tenure.terminations AS termination
             WHERE stage NOT IN ('cancelled', 'certified') GROUP BY stage ORDER BY stage"""),
        {"patience": STEP_GRACE},
    ).all()
    over = installation.connection.execute(
        text("""
            SELECT (SELECT count(*) FROM (
                        SELECT FROM tenure.terminations WHERE stage = 'certified' LIMIT :counted) AS few) AS purged,
                   (SELECT count(*) FROM tenure.terminations AS termination
                     WHERE stage = 'certified' AND certified_at > now() - :new AND NOT EXISTS (
                           SELECT FROM tenure.certificates AS c
                            WHERE c.termination_id = termination.id AND c.kind = 'purge')) AS uncertified"""),
        {"counted": COUNTED, "new": NEW},
    ).one()
    stages = {row.stage: row.number for row in rows}
    purged = f"{over.purged}" if over.purged < COUNTED else f"{COUNTED} or more"
    late, uncertified, failed = sum(row.late for row in rows), over.uncertified, stages.get("failed", 0)
    waiting = ", ".join(f"{number} {stage}" for stage, number in stages.items()) or "none"
    return judged(
        late == uncertified == failed == 0,
        f"{purged} customers who left are erased and certified; not yet: {waiting}"
        + (f"; {late} are late" if late else "")
        + (f"; {uncertified} have no certificate" if uncertified else ""),
    )
