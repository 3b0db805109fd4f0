"""All local servers of one directory: start them side by side, adopt what runs, end what was started.

    with servers(directory) as environment: ...     # for tests
    start(directory, keep_running=True); stop(directory)

Real PostgreSQL, Valkey, S3 and an SMTP inbox from PyPI wheels, with no Docker, root or account. All listen on loopback
only, with passwords of their own, and keep their data under `directory`. Production installs none of it: the wheels are
the extra `tenure[local]`, and nothing here imports them before it has to.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from workers.local import processes
from workers.local.errors import EmbeddedServerError
from workers.local.place import Place, assign_ports, exclusive, existing_place, open_place, port_is_free
from workers.local.processes import Process
from workers.local.server import Server
from workers.local.servers.mail import INBOX
from workers.local.servers.objects import OBJECTS
from workers.local.servers.postgres import POSTGRES
from workers.local.servers.valkey import VALKEY

_SERVERS = {server.name: server for server in (POSTGRES, VALKEY, OBJECTS, INBOX)}
ALL = tuple(_SERVERS)

_FLOWER_USER = "tenure"
_MAIL_FROM = "billing@tenure.example"
_POLL = 0.01
_ATTEMPTS = 3
#: What libfaketime reads. The servers follow it, so that a stack can be tried on another day (docs/testing.md).
FAKE_CLOCK = ("LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT")
# What a server may need of ours: no PG*, no AWS_*, no WEED_*, which would change what it does.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", *FAKE_CLOCK)


@dataclass(frozen=True)
class Stack:
    """environment: the addresses, by the names that the settings read; processes: the servers' pids by name."""

    environment: dict[str, str]
    processes: dict[str, int]


class _Unanswered(Exception):
    """The server has ended before it answered."""


def start(directory: Path, *, names: Collection[str] = ALL, fast: bool = False, keep_running: bool = False) -> Stack:
    """Start these servers on the data in `directory`, or adopt those that run there already and answer.

    fast: for tests; PostgreSQL does not wait for the disk.
    keep_running: they survive this process. Otherwise, on Linux, they end when the calling thread does, even by
    SIGKILL: call it from a thread that lives as long as they shall.
    Raises EmbeddedServerError, with what was started stopped again.
    """
    servers_wanted = [_SERVERS[name] for name in ALL if name in _checked(names)]
    directory = directory.absolute()
    with exclusive(directory):
        place = open_place(directory, fast=fast, attached=not keep_running)
        alive = _adopt(place, servers_wanted)
        wanted = [server for server in servers_wanted if server.name not in alive]
        for server in wanted:
            server.clean(place)  # by the ports of its last run, before it may get others
            assign_ports(place, server.ports, server.port_offsets)
        _assign_flower_port(place)
        started: dict[str, Process] = {}
        try:
            _start_all(place, wanted, started)
        except BaseException as error:
            for name in started:
                _end(place, _SERVERS[name], quick=False)
            if isinstance(error, OSError):
                raise EmbeddedServerError(
                    f"The local servers in {directory} cannot be started: {error.strerror} ({error.filename})."
                ) from error
            raise
        pids = {name: process.pid for name, process in (alive | started).items()}
        return Stack(_environment(place, servers_wanted), pids)


def stop(directory: Path, *, names: Collection[str] = ALL, quick: bool = False) -> None:
    """Stop what `start` started in `directory`, and nothing else; the data stays. Harmless when nothing runs.

    quick: kill them, without the shutdown of their own; the next start recovers.
    """
    _stop(directory.absolute(), names, quick=quick)


@contextlib.contextmanager
def servers(directory: Path, *, names: Collection[str] = ALL, fast: bool = True) -> Iterator[dict[str, str]]:
    """Servers for a test: yields their environment, and leaves no process behind, whatever happens in between."""
    try:
        yield start(directory, names=names, fast=fast).environment
    finally:
        _stop(directory.absolute(), names, quick=True)


def environment(directory: Path, *, names: Collection[str] = ALL) -> dict[str, str]:
    """The addresses these servers were last given in `directory`, whether they run or not; empty if never."""
    place = existing_place(directory.absolute())
    if place is None:
        return {}
    known = [_SERVERS[name] for name in _checked(names) if all(port in place.ports for port in _SERVERS[name].ports)]
    return _environment(place, known)


def running(directory: Path) -> dict[str, int]:
    """The pids of the servers of `directory` that live now."""
    found = {name: processes.running(directory.absolute(), name) for name in ALL}
    return {name: process.pid for name, process in found.items() if process is not None}


def _assign_flower_port(place: Place) -> None:
    """Flower is no server of ours, but lives at the same place: its port is kept while it runs on it."""
    if processes.running(place.directory, "flower") is None:
        assign_ports(place, ["flower"])


def _checked(names: Collection[str]) -> Collection[str]:
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        raise ValueError(f"no such local server: {', '.join(unknown)}; there are {', '.join(ALL)}")
    return names


def _environment(place: Place, known: Collection[Server]) -> dict[str, str]:
    values = {"TENURE_MODE": "local"}
    for server in known:
        values |= server.environment(place)
    values["TENURE_MAIL_FROM"] = _MAIL_FROM
    values["TENURE_KEY_ENCRYPTION_KEYS"] = place.secrets.key_encryption_key
    values["TENURE_CERTIFICATE_KEYS"] = place.secrets.certificate_key
    if "flower" in place.ports:
        values["TENURE_FLOWER_PORT"] = str(place.ports["flower"])
        values["TENURE_FLOWER_USER"] = _FLOWER_USER
        values["TENURE_FLOWER_PASSWORD"] = place.secrets.flower
    return values


def _adopt(place: Place, wanted: Collection[Server]) -> dict[str, Process]:
    """Those that run and answer; one that runs and does not answer is ended, to be started anew."""
    adopted = {}
    for server in wanted:
        process = processes.running(place.directory, server.name)
        if process is None:
            continue
        known = all(port in place.ports for port in server.ports)
        # Looked at once more after its answer: it may be dying with the process that started it.
        if known and server.answers(place) and processes.alive(process):
            adopted[server.name] = process
        else:
            _end(place, server, quick=False)
    return adopted


def _start_all(place: Place, wanted: Collection[Server], started: dict[str, Process]) -> None:
    """Prepare, start, await and settle each, all side by side.

    Only the starting is done in this thread: an attached server's life hangs on the thread that started it.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(wanted)), thread_name_prefix="embedded") as pool:
        preparing = {pool.submit(server.prepare, place): server for server in wanted}
        waiting: dict[Future[None], tuple[Server, int]] = {}
        for done in as_completed(preparing):
            done.result()
            server = preparing[done]
            started[server.name] = process = _spawn(place, server)
            waiting[pool.submit(_await, place, server, process)] = (server, 1)
        while waiting:
            done = next(as_completed(waiting))
            server, attempt = waiting.pop(done)
            try:
                done.result()
            except _Unanswered as end:
                # Between our look at the port and its own, someone else may have taken it.
                ports = [place.ports[name] + offset for name in server.ports for offset in server.port_offsets]
                taken = [port for port in ports if not port_is_free(port)]
                if not taken or attempt == _ATTEMPTS:
                    raise EmbeddedServerError(
                        f"The local server {server.name} ended before it answered. The end of"
                        f" {place.log(server.name)}:\n{processes.tail(place.log(server.name))}"
                    ) from end
                server.prepare(place)
                assign_ports(place, server.ports, server.port_offsets)
                started[server.name] = process = _spawn(place, server)
                waiting[pool.submit(_await, place, server, process)] = (server, attempt + 1)


def _spawn(place: Place, server: Server) -> Process:
    server.clean(place)
    launch = server.launch(place)
    process = processes.spawn(
        launch.command,
        log=place.log(server.name),
        environment={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(launch.environment),
        directory=launch.directory,
        attached=place.attached,
        death_signal=server.death_signal,
        identity=launch.identity,
    )
    processes.record(place.directory, server.name, process)
    return process


def _await(place: Place, server: Server, process: Process) -> None:
    deadline = time.monotonic() + server.patience
    _poll(place, server, process, deadline, lambda: server.answers(place))
    failure: list[Exception] = []

    def settled() -> bool:
        try:
            server.settle(place)
        except EmbeddedServerError:
            raise
        except Exception as error:  # any client library's own; told when the time is over
            failure[:] = [error]
            return False
        return True

    try:
        _poll(place, server, process, deadline, settled)
    except EmbeddedServerError as error:
        raise error from (failure[0] if failure else None)


def _poll(place: Place, server: Server, process: Process, deadline: float, succeeded: Callable[[], bool]) -> None:
    while not succeeded():
        if not processes.alive(process):
            raise _Unanswered
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"The local server {server.name} (process {process.pid}) did not serve within {server.patience:.0f} s."
                f" The end of {place.log(server.name)}:\n{processes.tail(place.log(server.name))}"
            )
        time.sleep(_POLL)


def _stop(directory: Path, names: Collection[str], *, quick: bool) -> None:
    chosen = [_SERVERS[name] for name in _checked(names)]
    if not (directory / "run").is_dir():
        return
    with exclusive(directory):
        place = existing_place(directory)
        if place is None:
            return
        with ThreadPoolExecutor(max_workers=len(ALL)) as pool:
            list(pool.map(lambda server: _end(place, server, quick=quick), chosen))


def _end(place: Place, server: Server, *, quick: bool) -> None:
    """quick: without its own shutdown; the signal it would get if we died."""
    process = processes.recorded(place.directory, server.name)
    if process is None:
        return
    steps = ((server.death_signal, 5.0),) if quick else server.steps
    processes.end(process, steps)
    server.clean(place)
    processes.forget(place.directory, server.name)
