"""New links to the record of a terminated account, without a new export, until the record's own window ends (T18).

All links that were given out before end with it. Where the record does not count as delivered yet, a new window begins,
with as many reminders: so a notice that nobody accepted is mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Text, cast, delete, func, or_, select, text
from sqlalchemy.orm import Session

from models.customers.account import Account
from models.termination.export_link import ExportLink
from models.termination.termination import Stage, Step, Termination, TerminationStep
from models.work import row
from tasks.cases.case import Next
from tasks.cases.correspondence import Correspondent, correspondents
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.termination.advancing import add_steps
from tasks.termination.delivering import READY, announce, reminder_times
from tasks.termination.links import new_link

#: Before the termination, as everybody locks them; what runs is waited for.
_STEPS = text("SELECT FROM tenure.termination_steps WHERE termination_id = :termination ORDER BY id FOR UPDATE")
_DELIVER = text("""
    UPDATE tenure.termination_steps
       SET state = 'pending', attempts = 0, crashes = 0, due_at = now() + interval '1 hour', finished_at = NULL,
           last_error = NULL
     WHERE termination_id = :termination AND step = 'deliver' AND state IN ('pending', 'failed')""")
_END_REMINDERS = text("""
    UPDATE tenure.termination_steps SET state = 'done', finished_at = clock_timestamp()
     WHERE termination_id = :termination AND step = 'remind' AND state IN ('pending', 'failed')""")
_LAST_NUMBER = text("""
    SELECT coalesce(max(number), 0) FROM tenure.termination_steps
     WHERE termination_id = :termination AND step = 'remind'""")
_REACHED: Final = (Stage.SEALED, Stage.DELIVERED, Stage.PURGING, Stage.VERIFYING, Stage.CERTIFIED)


@dataclass(frozen=True, slots=True)
class Reissued:
    """What came of it."""

    #: To how many a notice was queued.
    told: int
    #: The path of the page, where the link was to be handed over by a person; else None.
    page: str | None
    available_until: datetime


def find(session: Session, which: str) -> UUID:
    """A termination by its id or the account's ref, which it had at the freeze. Raises Permanent."""
    named = Termination.correspondence["account_ref"].astext == which
    found = session.scalars(
        select(Termination.id)
        .join(Account, Account.id == Termination.account_id)
        .where(or_(named, Account.ref == which, cast(Termination.id, Text) == which))
        .where(Termination.stage != Stage.CANCELLED)
    ).all()
    if len(found) > 1:
        raise Permanent(
            f"An account {which!r} was terminated more than once: name the termination by its id, "
            f"{' or '.join(map(str, sorted(found)))}."
        )
    if not found:
        raise Permanent(
            f"No termination is under way of an account {which!r}. After a purge, name it by its id, which stands on "
            "its certificate."
        )
    return found[0]


def reissue(
    session: Session, ports: Ports, termination_id: UUID, *, to: str | None = None, by_hand: bool = False
) -> Reissued:
    """Give out new links, by mail to all correspondents or to one address, or one that a person hands over.

    An address that is none of the correspondents' is written to all the same: the caller has seen to whose it is.
    Raises Permanent, with the reason, where there is no record to be had.
    """
    session.execute(_STEPS, {"termination": termination_id})
    termination = session.get_one(Termination, termination_id, with_for_update=True, populate_existing=True)
    now = session.scalars(select(func.now())).one()
    until = _window(session, ports, termination, now)
    session.execute(delete(ExportLink).where(ExportLink.termination_id == termination_id))
    page = new_link(session, termination, _reader(termination, to)) if by_hand else None
    whom = [] if by_hand else _whom(session, termination, to)
    if not by_hand and not whom:
        raise Permanent("Nobody is left to write to: name an address by --to, or hand the link over by --print.")
    announce(session, termination, occasion=f"{READY}:{uuid4().hex[:8]}", until=until, ports=ports, whom=whom)
    row.announce(session.connection(), TerminationStep)
    return Reissued(len(whom), page, until)


def _window(session: Session, ports: Ports, termination: Termination, now: datetime) -> datetime:
    """Until when the record can be had now; a new window begins where it does not count as delivered yet."""
    stage = termination.stage_before or termination.stage
    if stage not in _REACHED or termination.available_until is None or termination.archive_purged_at is not None:
        raise Permanent(f"The termination is {termination.stage}: it has no record that could be fetched.")
    if stage != Stage.SEALED:
        if now >= termination.available_until:
            raise Permanent("The time in which the record could be fetched is over.")
        return termination.available_until
    until = now + ports.terms.window
    termination.available_until = until
    session.execute(_DELIVER, {"termination": termination.id})
    session.execute(_END_REMINDERS, {"termination": termination.id})
    last = session.execute(_LAST_NUMBER, {"termination": termination.id}).scalar_one()
    times = reminder_times(ports.terms, until)
    add_steps(session, termination.id, [Next(Step.REMIND, last + n, at) for n, at in enumerate(times, start=1)])
    return until


def _whom(session: Session, termination: Termination, to: str | None) -> Sequence[Correspondent]:
    if termination.correspondence is None:
        # What is queued now would outlast the step that forgets the last addresses.
        raise Permanent("Whom to write to is forgotten already: hand the link over by --print.")
    if to is None:
        return correspondents(session, termination)
    return [replace(_reader(termination, to), email=to)]


def _reader(termination: Termination, to: str | None) -> Correspondent:
    """Whoever is written to there; of one whom nobody knows, the language of the first."""
    known = [Correspondent(**each) for each in (termination.correspondence or {}).get("contacts", ())]
    first = replace(known[0], name="") if known else Correspondent(name="", email="", language="en", time_zone="UTC")
    return next((each for each in known if each.email == to), first)
