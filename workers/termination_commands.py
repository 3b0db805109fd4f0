"""`tenure terminate`: end a contract, see how far that came, take it back (P6.1, T3, T28).

Exit codes: 0 fine, 1 something stops it, 2 wrong use.
"""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from models.unit_of_work import Database
from tasks.failures import Failure, Permanent
from tasks.ports import Ports
from tasks.termination import cancelling, preview, requesting
from workers import bootstrap, termination_preview
from workers.operations import in_words, print_json
from workers.settings import settings

#: By the ref that it has now, or had before it was purged; of several terminations the latest.
_FIND = text("""
    SELECT termination.*, account.status
      FROM tenure.terminations AS termination JOIN tenure.accounts AS account ON account.id = termination.account_id
     WHERE account.ref IN (:ref, tenure.purged_ref(:ref))
     ORDER BY termination.requested_at DESC LIMIT 1""")
_STEPS = text("""
    SELECT step, number, state, due_at, finished_at, last_error, evidence FROM tenure.termination_steps
     WHERE termination_id = :id ORDER BY coalesce(finished_at, due_at), id""")
#: What stands in its row of when it came to what.
_INSTANTS = (
    "requested_at", "ends_at", "cancel_until", "frozen_at", "sealed_at", "available_until", "downloaded_at",
    "delivered_at", "purge_began_at", "verified_at", "certified_at", "archive_purged_at", "cancelled_at",
)  # fmt: skip


def terminate(ref: str, *, ends_on: date | None, grace: float | None, json: bool) -> int:
    """Ask for it, here and now: what is wrong is told at once."""
    with in_words():
        ports = _ports()
        try:
            with ports.database.transaction() as session:
                made = requesting.request(
                    session,
                    _account(session, ref),
                    ports,
                    source="operator",
                    ends_on=ends_on,
                    grace=None if grace is None else timedelta(days=grace),
                )
        except Failure as failure:
            return _refused(failure)
    if json:
        print_json({"termination": made.id, "ends_at": made.ends_at, "cancel_until": made.cancel_until})
        return 0
    click.echo(f"Termination {made.id} of {ref} is under way; its contacts are told.")
    click.echo(f"The contract ends {_instant(made.ends_at)}, the account is frozen {_instant(made.cancel_until)}.")
    click.echo(f"Until then nothing happens to its data: tenure terminate cancel {ref}")
    return 0


def dry_run(ref: str, json: bool) -> int:
    """What would be exported and erased; 1 where something would stop it."""
    with in_words():
        ports = _ports()
        try:
            with ports.database.transaction() as session:
                found = preview.find(session, ref)
            if found is None:
                raise Permanent(_unknown(ref))
            seen = preview.preview(ports, *found)
        except Failure as failure:
            return _refused(failure)
    if json:
        print_json(termination_preview.as_dict(seen))
    else:
        termination_preview.show(Console(highlight=False), seen)
    return int(bool(seen.obstacles))


def cancel(ref: str) -> int:
    with in_words():
        try:
            with Database(settings().database_url).transaction() as session:
                termination = session.execute(_FIND, {"ref": ref}).mappings().one_or_none()
                if termination is None:
                    raise Permanent(f"No termination of {ref} is known.")
                cancelling.cancel(session, termination["id"])
        except Failure as failure:
            return _refused(failure)
    click.echo(f"The termination of {ref} is taken back: the account is as it was.")
    return 0


def show(ref: str, json: bool) -> int:
    """How far it came, step by step; 1 where it stands aside."""
    with in_words(), Database(settings().database_url).connection() as connection:
        found = connection.execute(_FIND, {"ref": ref}).mappings().one_or_none()
        if found is None:
            return _refused(Permanent(f"No termination of {ref} is known."))
        steps = [dict(row) for row in connection.execute(_STEPS, {"id": found["id"]}).mappings()]
        now = _clock(connection)
    aside = found["stage"] in ("held", "failed")
    if json:
        told: dict[str, Any] = {"termination": found["id"], "stage": found["stage"], "before": found["stage_before"]}
        print_json(told | {name: found[name] for name in _INSTANTS} | {"steps": steps})
        return int(aside)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    before = f", before that {found['stage_before']}" if aside else ""
    console.print(f"Termination {found['id']} of {ref}: [bold]{found['stage']}[/]{before}\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("step", "state", "when", "what it saw"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        name = step["step"].replace("_", " ") + (f" {step['number']}" if step["number"] else "")
        when = step["finished_at"] or step["due_at"]
        said = step["last_error"] if step["state"] != "done" else ", ".join(_facts(step["evidence"]))
        colour = {"done": "green", "failed": "bold red", "cancelled": "dim"}.get(step["state"], "yellow")
        waits = " from" if step["state"] == "pending" and when > now else ""
        table.add_row(name, f"[{colour}]{step['state']}{waits}[/]", _instant(when), _plain(said))
    console.print(table)
    return int(aside)


def _facts(evidence: dict[str, Any]) -> list[str]:
    return [f"{name} {value}" for name, value in evidence.items() if isinstance(value, str | int | bool)]


def _plain(said: str | None) -> str:
    return (said or "").replace("[", r"\[")


def _instant(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _clock(connection: Connection) -> datetime:
    now: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return now


def _account(session: Session, ref: str) -> UUID:
    found = preview.find(session, ref)
    if found is None:
        raise Permanent(_unknown(ref))
    return found[0].id


def _unknown(ref: str) -> str:
    return f"There is no account {ref}: give the application's own key of the customer, tenure.accounts.ref."


def _refused(failure: Failure) -> int:
    click.echo(f"tenure: {failure}", err=True)
    return 1


def _ports() -> Ports:
    from workers.app import app  # noqa: PLC0415 - Celery is needed for the ports alone

    return bootstrap.ports(settings(), app)
