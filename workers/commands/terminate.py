"""`tenure terminate`: end a contract, see how far that came, take it back (P6.1, T3, T28).

Exit codes: 0 fine, 1 something stops it, 2 wrong use.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import click
from rich.console import Console
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.termination import cancelling, preview, requesting
from workers.settings.settings import settings
from workers.terminal import termination_preview, termination_progress
from workers.terminal.options import DAY, as_json
from workers.terminal.output import print_json, reports_errors
from workers.wiring import bootstrap


class _StartsByDefault(click.Group):
    """What is no subcommand is the account: `tenure terminate acme` is `tenure terminate start acme`."""

    default = "start"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


terminate = _StartsByDefault("terminate", help="`tenure terminate REF` is short for `tenure terminate start REF`.")


@terminate.command()
@click.argument("ref")
@click.option("--dry-run", is_flag=True, help="Show what would be exported and erased; change nothing.")
@click.option(
    "--ends-on", type=DAY, metavar="YYYY-MM-DD", help="The last day of the contract; without it, the contract ends now."
)
@click.option("--grace", type=click.FloatRange(0, 3650), help="Days from then until the account is frozen.")
@as_json
@reports_errors
def start(*, ref: str, dry_run: bool, ends_on: datetime | None, grace: float | None, json: bool) -> int:
    """End the contract of the account REF.

    With --dry-run, only shows what that would do. Exits with 1 if something stops it.
    """
    if dry_run:
        return _dry_run(ref, json)
    ports = _ports()
    with ports.database.transaction() as session:
        made = requesting.request(
            session,
            _account(session, ref),
            ports,
            source="operator",
            ends_on=ends_on.date() if ends_on else None,
            grace=None if grace is None else timedelta(days=grace),
        )
    if json:
        print_json({"termination": made.id, "ends_at": made.ends_at, "cancel_until": made.cancel_until})
        return 0
    click.echo(f"Termination {made.id} of {ref} is under way; its contacts are told.")
    click.echo(f"The contract ends {_instant(made.ends_at)}, the account is frozen {_instant(made.cancel_until)}.")
    click.echo(f"Until then nothing happens to its data: tenure terminate cancel {ref}")
    return 0


def _dry_run(ref: str, json: bool) -> int:
    """Print what would be exported and erased. Returns 1 if something would stop it."""
    ports = _ports()
    with ports.database.transaction() as session:
        found = preview.find(session, ref)
    if found is None:
        raise Permanent(_unknown(ref))
    seen = preview.preview(ports, *found)
    if json:
        print_json(termination_preview.as_dict(seen))
    else:
        termination_preview.show(Console(highlight=False), seen)
    return int(bool(seen.obstacles))


@terminate.command()
@click.argument("ref")
@reports_errors
def cancel(ref: str) -> None:
    """Cancel the termination of the account REF.

    This is possible as long as none of its data was deleted.
    """
    with Database(settings().database_url).transaction() as session:
        termination = session.execute(termination_progress.FIND, {"ref": ref}).mappings().one_or_none()
        if termination is None:
            raise Permanent(f"No termination of {ref} is known.")
        cancelling.cancel(session, termination["id"])
    click.echo(f"The termination of {ref} is taken back: the account is as it was.")


@terminate.command()
@click.argument("ref")
@click.option("--watch", is_flag=True, help="Follow it until it ends, is held or fails.")
@as_json
@reports_errors
def show(ref: str, watch: bool, json: bool) -> int:
    """Show how far the latest termination of REF came.

    Prints it step by step, and store by store while it exports and purges. Exits with 1 if it is held or failed.
    With --watch --json, prints a line of JSON for each change.
    """
    database = Database(settings().database_url, pool_size=1)
    if watch:
        try:
            seen = termination_progress.watch(database, ref, json)
        except KeyboardInterrupt:
            # Only watching ends; the work goes on.
            return 130
    else:
        with database.connection() as connection:
            seen = termination_progress.look(connection, ref)
    if seen is None:
        raise Permanent(f"No termination of {ref} is known.")
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


def _ports() -> Ports:
    from workers.app import app  # noqa: PLC0415 - Celery is needed for the ports alone

    return bootstrap.ports(settings(), app)
