"""The waker: a message for a task waits in the broker."""

from __future__ import annotations

from typing import Protocol

from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


class Waker(Protocol):
    def __call__(self, task: str) -> None:
        """See to it that a message for `task` waits in the broker; does nothing where one does. Never raises."""

    def waits(self, task: str) -> bool:
        """Whether a message for `task` waits for a free process. Never raises; False where the broker is away."""

    def begun(self, task: str) -> None:
        """Say that `task` began: what is due from now on deserves a new message. Never raises."""
