"""`tenure purge replay`: after a backup was restored, and before anything works on it (T26)."""

from __future__ import annotations

import click

from tasks.failures import Failure
from tasks.termination.replay import Replayed, replay
from workers.app import app
from workers.settings.settings import settings
from workers.terminal.output import in_words
from workers.wiring import bootstrap


def main() -> int:
    """Erase again what was erased since the backup. 1 where something is left to do."""
    with in_words():
        ports = bootstrap.ports(settings(), app)
        try:
            done = replay(ports, told=click.echo)
        except Failure as failure:
            click.echo(f"tenure: {failure}", err=True)
            return 1
        finally:
            ports.database.engine.dispose()
    for each in done.left:
        click.echo(f"tenure: {each}", err=True)
    click.echo(_sum(done))
    return int(bool(done.left))


def _sum(done: Replayed) -> str:
    if not (done.erased or done.certificates or done.left):
        return "The database knows every erasure of the ledger: there is nothing to do again."
    absent = f" ({done.absent} of them of accounts that the backup did not know yet)" if done.absent else ""
    last = (
        "Release the holds (tenure hold list) or mend what the sentences say, then run it again: workers do not "
        "start before."
        if done.left
        else "Workers may start."
    )
    return f"{done.erased} erasures were done again{absent}, {done.certificates} certificates put back. {last}"
