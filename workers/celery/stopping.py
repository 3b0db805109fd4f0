"""Whether this worker was asked to stop, as its children see it (W9)."""

from __future__ import annotations

import mmap

#: One byte that the main process and its children share: set when the worker is asked to stop. Children do not get
#: the signal, and would otherwise go on claiming until their budget ends.
_STOPPING = mmap.mmap(-1, 1)


def stopping() -> bool:
    """Return whether the worker was asked to stop."""
    return _STOPPING[0] != 0


def ask_to_stop() -> None:
    """Ask the worker's processes to stop claiming."""
    _STOPPING[0] = 1
