"""Several transports in order of preference: where one is away, the next is asked (E9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from tasks.failures import Unavailable
from tasks.ports.context import Envelope, Mailer, Permit, Receipt

log = structlog.get_logger()

#: Seconds that a transport is passed over after it was away, so that not every message waits for it.
REST = 30.0


class FailoverMailer:
    """Asks the next only while it is certain that nothing of the message has left.

    From the mark on (`before_commit`) a message belongs to the transport that has it: what it may have accepted, no
    other is given.
    """

    def __init__(self, transports: Sequence[Mailer], *, rest: float = REST) -> None:
        self._transports = transports
        self._rest = rest
        self._away_until = [0.0] * len(transports)

    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        marked = False

        def mark() -> None:
            nonlocal marked
            # First: that the mark's COMMIT goes unanswered does not make it undone.
            marked = True
            before_commit()

        away: Unavailable | None = None
        for number in self._order():
            try:
                receipt = self._transports[number].send(envelope, permit=permit, before_commit=mark)
            except Unavailable as error:
                self._away_until[number] = monotonic() + self._rest
                if marked:
                    raise
                log.warning("mail.transport_away", transport=number + 1, reason=str(error))
                away = away or error
            else:
                self._away_until[number] = 0.0
                return receipt
        raise away or Unavailable("There is no transport for mail: set TENURE_MAIL_URL.")

    def _order(self) -> list[int]:
        """By preference, those that were away a moment ago last."""
        now = monotonic()
        return sorted(range(len(self._transports)), key=lambda number: self._away_until[number] > now)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
