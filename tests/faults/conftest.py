"""Faults are put into the same processes on the same servers as the acceptance tests run."""

from tests.acceptance.conftest import (  # noqa: F401 - fixtures
    broker,
    outcome,
    processes,
    pytest_runtest_makereport,
    stack,
)
