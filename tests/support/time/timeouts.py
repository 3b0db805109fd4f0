"""Scale the timeouts of pytest, which end a test that hangs, as its deadlines are (tests/support/time/deadlines.py)."""

from __future__ import annotations

import pytest

from tests.support.time.deadlines import deadline


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else usual
        item.add_marker(pytest.mark.timeout(deadline(seconds)), append=False)
