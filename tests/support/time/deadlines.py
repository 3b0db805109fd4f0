"""How long tests wait: for what they wait for, generously, and scaled by one setting.

    eventually(lambda: done(outcome), "all statements are done")       # tests/support/servers/processes.py, with these
    deadlines assert ready.wait(deadline(30))

A deadline belongs to what a test waits for. The seconds in a test are what a quiet machine takes, amply; they are
multiplied by TEST_DEADLINE_FACTOR, as are the timeouts of pytest, which end a test that hangs. No test asserts
that something was quick.
"""

from __future__ import annotations

import os
from typing import Final

#: By default for a machine that eight others keep busy; a developer who waits for a failure sets 1.
FACTOR: Final = float(os.environ.get("TEST_DEADLINE_FACTOR", "3"))


def deadline(seconds: float) -> float:
    """Return the seconds to wait for something that a quiet machine does within `seconds`."""
    return seconds * FACTOR
