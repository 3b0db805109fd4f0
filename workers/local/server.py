"""What the stack has to know about one local server."""

import importlib.util
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.local.errors import EmbeddedServerError
from workers.local.place import Place
from workers.local.processes import Identity


def nothing(_place: Place) -> None:
    """For a server that needs no such step."""


@dataclass(frozen=True)
class Launch:
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None


@dataclass(frozen=True)
class Server:
    """One server, in the order of its life.

    ports: by name; it listens on each, and on those `port_offsets` above it.
    prepare: make its folder and data; may take a while, runs beside the others.
    launch: how to start it on the ports of the place.
    answers: True if it serves requests with our password now; never raises for a server that is down.
    settle: make in it what the platform expects to exist; again harmless when it exists.
    environment: the addresses it is reached by.
    steps: the signals that end it, each with the seconds it gets.
    clean: what it leaves outside its folder.
    """

    name: str
    ports: tuple[str, ...]
    prepare: Callable[[Place], None]
    launch: Callable[[Place], Launch]
    answers: Callable[[Place], bool]
    settle: Callable[[Place], None]
    environment: Callable[[Place], dict[str, str]]
    steps: tuple[tuple[signal.Signals, float], ...]
    death_signal: signal.Signals = signal.SIGKILL
    patience: float = 30.0
    port_offsets: tuple[int, ...] = (0,)
    clean: Callable[[Place], None] = nothing


def package_folder(module: str, server: str, address: str) -> Path:
    """Where the wheel that brings `server` is installed (without importing it)."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise missing(server, address)
    return Path(spec.submodule_search_locations[0])


def missing(server: str, address: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The local {server} is not installed. Install it with: pip install 'tenure[local]'"
        f" — or set {address} to a server of your own."
    )
