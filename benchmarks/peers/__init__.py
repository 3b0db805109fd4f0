"""What one would pick instead: each file is a worker of that library that does nothing to each job, and its run."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def installed(*names: str) -> tuple[list[ModuleType], list[str]]:
    """The peers of these files, and a sentence on each that is not installed."""
    found: list[ModuleType] = []
    missing: list[str] = []
    for name in names:
        try:
            found.append(import_module(f"{__name__}.{name}"))
        except ModuleNotFoundError as error:
            missing.append(f"the peer {error.name} is not installed")
        except OSError as error:
            # It is, and the libraries of the system that it loads are not.
            missing.append(f"the peer {name} cannot be loaded: {str(error).splitlines()[0]}")
    return found, missing
