"""Golden files: what was rendered, compared with a file that one can read. `--rewrite-golden` writes them anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "golden"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files from what is rendered now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden("mail/name.txt", text)`: fails if the file says something else."""

    def compare(name: str, actual: str) -> None:
        path = FOLDER / name
        if request.config.getoption("--rewrite-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual, "utf-8", newline="\n")
            return
        if not path.exists():
            pytest.fail(f"There is no golden file {name}: run `make golden` and read what it wrote.")
        expected = path.read_text("utf-8")
        assert actual == expected, f"{name} differs; if that is meant, run `make golden` and read the change."

    return compare
