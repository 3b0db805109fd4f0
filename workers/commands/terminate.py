"""`tenure terminate`: end a contract, see how far that came, take it back (P6.1, T3, T28).

Exit codes: 0 fine, 1 something stops it, 2 wrong use.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from uuid import UUID

import click
from rich.console import Console
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from tasks.failures import Failure, Permanent
from tasks.ports.context import Ports
from tasks.termination import cancelling, preview, requesting
from workers.settings.settings import settings
from workers.terminal import termination_preview, termination_progress
from workers.terminal.output import in_words, print_json
from workers.wiring import bootstrap


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
                termination = session.execute(termination_progress.FIND, {"ref": ref}).mappings().one_or_none()
                if termination is None:
                    raise Permanent(f"No termination of {ref} is known.")
                cancelling.cancel(session, termination["id"])
        except Failure as failure:
            return _refused(failure)
    click.echo(f"The termination of {ref} is taken back: the account is as it was.")
    return 0


def show(ref: str, json: bool, watch: bool) -> int:
    """How far it came, step by step; 1 where it stands aside."""
    with in_words():
        database = Database(settings().database_url, pool_size=1)
        if watch:
            try:
                seen = termination_progress.watch(database, ref, json)
            except KeyboardInterrupt:
                # Whoever watched has seen enough; the work goes on.
                return 130
        else:
            with database.connection() as connection:
                seen = termination_progress.look(connection, ref)
    if seen is None:
        return _refused(Permanent(f"No termination of {ref} is known."))
    if not watch:
        termination_progress.show(seen, json)
    return int(seen.is_aside)


def _instant(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


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
