"""Several transports in order of preference, or one alone: where one is away, the next is asked (E9).

A transport that refuses us (`Barred`) is not asked again for a while, which grows from ten seconds to ten minutes: a
wrong password that is tried at every row locks the account, and a quota is not there again a second later. Rows wait
meanwhile, and lose no attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

import structlog

from tasks.failures import Barred, Doubtful, Unavailable, Unsuitable
from tasks.ports.mail import Envelope, Mailer, Permit, Receipt

log = structlog.get_logger()

#: Seconds that a transport is passed over after it was away, so that not every message waits for it.
REST = 30.0
#: Seconds for which a transport that refuses us is not asked: at first, and at most.
PAUSE = 10.0
LONGEST_PAUSE = 600.0
#: How many messages in succession a server may break off over or refuse in doubt: then it is to blame.
BREAKS = 3


@dataclass
class _Standing:
    """How a transport has served us lately."""

    away_until: float = 0.0
    paused_until: float = 0.0
    pause: float = PAUSE
    why_paused: str = ""
    breaks: int = 0


class FailoverMailer:
    """Asks the next only while it is certain that nothing of the message has left.

    From the mark on (`before_commit`) a message belongs to the transport that has it: what it may have accepted, no
    other is given.
    """

    def __init__(self, transports: Sequence[Mailer], *, rest: float = REST, pause: float = PAUSE) -> None:
        self._transports = transports
        self._rest = rest
        self._pause = pause
        self._standing = [_Standing(pause=pause) for _ in transports]

    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        marked = False

        def mark() -> None:
            nonlocal marked
            # First: that the mark's COMMIT goes unanswered does not make it undone.
            marked = True
            before_commit()

        away: Unavailable | None = None
        unsuitable: Unsuitable | None = None
        for number in self._order():
            standing = self._standing[number]
            if standing.paused_until > monotonic():
                away = away or Barred(standing.why_paused, wait=timedelta(seconds=standing.paused_until - monotonic()))
                continue
            try:
                receipt = self._transports[number].send(envelope, permit=permit, before_commit=mark)
            except Unsuitable as error:
                unsuitable = error
                if marked:
                    raise
            except Unavailable as error:
                self._note(number, error)
                if marked:
                    raise
                log.warning("mail.transport_away", transport=number + 1, reason=str(error))
                away = _telling(away, error)
            else:
                self._standing[number] = _Standing(pause=self._pause)
                return receipt
        if away is None and unsuitable is not None:
            raise unsuitable
        raise away or Unavailable("There is no transport for mail: set TENURE_MAIL_URL.")

    def _note(self, number: int, error: Unavailable) -> None:
        standing = self._standing[number]
        now = monotonic()
        standing.breaks += 1
        doubtful = isinstance(error, Doubtful) and standing.breaks < BREAKS
        if isinstance(error, Barred) or (isinstance(error, Doubtful) and error.about_us and not doubtful):
            standing.paused_until, standing.why_paused = now + standing.pause, str(error)
            log.error("mail.transport_refuses_us", transport=number + 1, reason=str(error), seconds=standing.pause)
            error.wait = timedelta(seconds=standing.pause)
            standing.pause = min(2 * standing.pause, LONGEST_PAUSE)
        elif not doubtful:
            standing.away_until = now + self._rest

    def _order(self) -> list[int]:
        """By preference, those that were away a moment ago last."""
        now = monotonic()
        return sorted(range(len(self._transports)), key=lambda number: self._standing[number].away_until > now)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


def _telling(first: Unavailable | None, second: Unavailable) -> Unavailable:
    """Which of two says more of the row: that a server was asked, and broke off over it."""
    return second if first is None or (isinstance(second, Doubtful) and not isinstance(first, Doubtful)) else first
