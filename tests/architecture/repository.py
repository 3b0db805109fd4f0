"""The repository as its tests look at it: files, the project file, the compose file."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("models", "email_templates", "tasks", "scheduler", "workers")

#: `${NAME:?what to do}`, the only form of variable that the compose file uses: one without a default.
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+):\?[^}]*\}")


@cache
def files() -> Sequence[Path]:
    """What git holds, or would hold after `git add`: nothing that is ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = sorted(ROOT / name for name in listed.split("\0") if name)
    # A file that was just removed is still in the index.
    return [path for path in found if path.is_file()]


def modules(*folders: str) -> Sequence[Path]:
    return [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


@cache
def project() -> Mapping[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@cache
def compose() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
    return loaded


def app_services() -> Mapping[str, Mapping[str, Any]]:
    """The services that run Tenure itself: those that are built, not pulled."""
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def filled(text: str, variables: Mapping[str, str]) -> str:
    """A value of the compose file as compose would pass it on."""
    return VARIABLE.sub(lambda match: variables[match[1]], text).replace("$$", "$")
