"""What integration tests share: the `tenure` command as an operator types it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tenure(servers: Mapping[str, str], database_url: str) -> Run:
    """Run the command with this test's database."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        passed_on = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            env=passed_on | dict(servers) | {"TENURE_DATABASE_URL": database_url, "COLUMNS": "100"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
