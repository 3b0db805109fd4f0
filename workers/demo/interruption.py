"""Ctrl-C, SIGTERM and SIGHUP during the demo: the first ends what is under way, a second one the patience."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


class Interrupted(BaseException):
    """Someone asked the demo to end."""


@dataclass
class Received:
    """Signals that came. They interrupt what is under way, but for what is done while they are held."""

    count: int = 0
    _holding: bool = False
    _before: int = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._holding, self._before = True, self.count
        yield

    def again(self) -> bool:
        """Whether one more came while they are held: someone is impatient."""
        return self.count > self._before

    def note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if not self._holding:
            raise Interrupted


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note these signals, and interrupt what is under way. What is interrupted may fail on its way out, as a connection
    does in the middle of an answer: that, too, is raised as Interrupted."""
    received = Received()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, received.note) for number in numbers}
    try:
        yield received
    except Exception as error:
        if received.count:
            raise Interrupted from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
