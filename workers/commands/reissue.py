"""`tenure export reissue`: new links to a record, by mail or to be handed over by a person (T18).

Exit codes: 0 fine, 1 there is no record to be had, 2 wrong use.
"""

from __future__ import annotations

import click

from tasks.failures import Permanent
from tasks.mail.addresses import NotAnAddress, checked
from tasks.termination import reissuing
from workers.settings.settings import settings
from workers.terminal.output import in_words
from workers.wiring import bootstrap


def reissue(which: str, to: str | None, by_hand: bool) -> int:
    if to is not None and by_hand:
        click.echo("tenure: either --to or --print: a link that is printed is written to nobody.", err=True)
        return 2
    try:
        if to is not None:
            checked(to)
    except NotAnAddress as error:
        click.echo(f"tenure: --to is not an e-mail address. {error}", err=True)
        return 2
    from workers.app import app  # noqa: PLC0415 - Celery is needed for this command alone

    with in_words():
        ports = bootstrap.ports(settings(), app)
        try:
            with ports.database.transaction() as session:
                done = reissuing.reissue(session, ports, reissuing.find(session, which), to=to, by_hand=by_hand)
        except Permanent as error:
            click.echo(f"tenure: {error}", err=True)
            return 1
    until = f"{done.available_until:%Y-%m-%d %H:%M} UTC"
    if done.page is None:
        click.echo(f"A notice with a new link is queued to {done.told}. It is good until {until}; older links ended.")
    else:
        # Alone on its line, for a pipe; the words go beside it.
        click.echo(f"https://{ports.letterhead.company.website}{done.page}")
        click.echo(f"Good until {until}, for whoever has it; older links ended.", err=True)
    return 0
