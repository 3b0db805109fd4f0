"""`tenure up` and `tenure down`: the whole platform on one machine.

`up` starts a local server for each address that the environment does not set, brings the database to the newest
schema, and starts the app's own processes; `down` ends exactly these. Each process is known by a record in
`var/run/NAME.json` (pid and time of start). The record is the will: a process that has one and is dead is started
again (by an `up` that stays in front), one without is left alone.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from workers.local import processes
from workers.local import stack as local_stack
from workers.local.errors import EmbeddedServerError
from workers.local.place import LOOPBACK, port_is_free
from workers.local.processes import Process


@dataclass(frozen=True)
class Service:
    """One process of the app.

    command: `{var}` in it becomes the folder.
    says: what its log holds once it serves; without it, to have lived for a second is enough.
    listens: the setting that names a port on which it answers once it serves.
    grace: seconds it gets between SIGTERM and SIGKILL.
    """

    command: tuple[str, ...]
    says: str | None = None
    listens: str | None = None
    grace: float = 10.0


_CELERY = (sys.executable, "-m", "celery", "-A", "workers.app")
_TENURE = (sys.executable, "-m", "workers.commands")

SERVICES: Mapping[str, Service] = {
    "worker": Service(
        (*_CELERY, "worker", "--loglevel=INFO", "--concurrency=2", "-n", "worker@%h"), says=" ready.", grace=20.0
    ),
    "beat": Service((*_CELERY, "beat", "--loglevel=INFO"), says="beat: Starting"),
    "relay": Service((*_TENURE, "relay")),
    "flower": Service((*_CELERY, "flower"), listens="TENURE_FLOWER_PORT"),
}
MIGRATE = (*_TENURE, "migrate")

# The address that, set in the environment, stands for the embedded server.
_ADDRESSES = {
    "postgres": "TENURE_DATABASE_URL",
    "valkey": "TENURE_BROKER_URL",
    "s3": "TENURE_S3_ENDPOINT",
    "inbox": "TENURE_MAIL_URL",
}
# The settings may name a file instead; it comes first.
_FILE = "_FILE"
# What the environment may set beside an embedded server; the rest belongs to the server and comes from it.
_TASTE = (
    "TENURE_MODE",
    "TENURE_MAIL_FROM",
    "TENURE_KEY_ENCRYPTION_KEYS",
    "TENURE_CERTIFICATE_KEYS",
    "TENURE_FLOWER_PORT",
    "TENURE_FLOWER_USER",
    "TENURE_FLOWER_PASSWORD",
)
_MARK = ".tenure"
_MARK_TEXT = "This folder belongs to `tenure up`; `tenure down --purge` removes what it made in it.\n"
_MADE = ("postgres", "valkey", "s3", "inbox", "log", "run", "secrets.json", "ports.json", "tenure.env", _MARK)

_READY_TIMEOUT = 60.0
_MIGRATION_TIMEOUT = 3600.0
_SETTLED_AFTER = 1.0
_DOWN_TIMEOUT = 90.0
_POLL = 0.05
_LONGEST_BACKOFF = 30.0
_HEALTHY_LIFE = 60.0

_console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def up(
    var: Path,
    detach: bool,
    services: Collection[str] = tuple(SERVICES),
    *,
    table: Mapping[str, Service] = SERVICES,
    migrate: tuple[str, ...] = MIGRATE,
) -> int:
    """Start everything; with `detach` return when all of it serves, else stay until Ctrl-C or SIGTERM.

    Returns the exit code: 0, or 1 after a sentence about what was wrong (then nothing that it started is left).
    """
    var = var.absolute()
    unknown = sorted(set(services) - set(table))
    if unknown:
        _errors.print(f"There is no service {', '.join(unknown)}; there are {', '.join(table)}.")
        return 1
    try:
        _own(var)
        with _only_one(var) as other, _signals() as received:
            if other is not None:
                _errors.print(f"Another `tenure up` or `tenure down` is at work in {var}{other}. Nothing was changed.")
                return 1
            already = {name: pid for name in table if (pid := service_pid(var, name)) is not None}
            if already:
                return _already_up(var, already, services)
            processes.record(var, "up", _myself())
            try:
                return _run(var, detach, services, table=table, migrate=migrate, received=received)
            finally:
                processes.forget(var, "up")
    except EmbeddedServerError as error:
        _errors.print(str(error))
        return 1


def down(var: Path, purge: bool, *, table: Mapping[str, Service] = SERVICES) -> int:
    """Stop what `up` started, the app's processes first; the data stays, unless `purge`. Returns the exit code."""
    var = var.absolute()
    try:
        if purge and var.exists() and not _is_ours(var):
            raise EmbeddedServerError(
                f"{var} is not a folder of `tenure up` (it has no {_MARK}). Nothing was stopped or removed."
            )
        if not (var / "run").is_dir():
            _console.print(f"Nothing runs under {var}.", markup=False)
            return 0
        stopped = _end_foreground(var)
        with _only_one(var) as other:
            if other is not None:
                raise EmbeddedServerError(f"Another `tenure up` or `tenure down` is at work in {var}{other}.")
            stopped += _stop_services(var, _recorded_services(var), table)
            stopped += list(local_stack.running(var))
            local_stack.stop(var)
            if purge:
                _purge(var)
    except EmbeddedServerError as error:
        _errors.print(str(error))
        return 1
    said = f"Stopped: {', '.join(stopped)}." if stopped else f"Nothing runs under {var}."
    _console.print(said + (f" Removed its data under {var}." if purge else ""), markup=False)
    return 0


def start_service(var: Path, name: str, *, table: Mapping[str, Service] = SERVICES) -> int:
    """Start one process of the app beside what runs, wait until it serves, and return its pid.

    It survives the caller. If it runs already, that is its pid. Raises EmbeddedServerError if it ends before it serves.
    """
    var = var.absolute()
    pid = service_pid(var, name)
    if pid is not None:
        return pid
    values = read_environment(var)
    started = _spawn(var, name, table[name], values, attached=False)
    try:
        _await(var, name, table[name], started, values)
    except EmbeddedServerError:
        stop_service(var, name, kill=True, table=table)
        raise
    return started[0].pid


def stop_service(var: Path, name: str, kill: bool = False, *, table: Mapping[str, Service] = SERVICES) -> None:
    """Stop one process of the app, so that it stays stopped; with `kill` it and its children at once (SIGKILL).

    For the death of the main process alone, send SIGKILL to `service_pid`.
    """
    var = var.absolute()
    process = processes.recorded(var, name)
    if process is None:
        return
    processes.forget(var, name)  # first, or an `up` in front would start it again
    if kill:
        members = [process, *processes.family(process)]
        for member in members:
            processes.send(member, signal.SIGKILL)
        # A pool may have replaced a child in between.
        processes.end(process, ((signal.SIGKILL, 5.0),), impatient=lambda: True)
        processes.wait_until_gone(members, 5.0)
    else:
        processes.end(process, ((signal.SIGTERM, table[name].grace if name in table else 10.0),))


def service_pid(var: Path, name: str) -> int | None:
    """The pid of a process of the app (of a worker: its main process), or None if it does not run."""
    process = processes.running(var.absolute(), name)
    return None if process is None else process.pid


def read_environment(var: Path) -> dict[str, str]:
    """What `up` wrote to `tenure.env`: every address, by the names of the settings."""
    path = var.absolute() / "tenure.env"
    try:
        words = shlex.split(path.read_text(), comments=True)
    except FileNotFoundError:
        raise EmbeddedServerError(f"There is no {path}. Start the platform with: tenure up --detach") from None
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _run(
    var: Path,
    detach: bool,
    services: Collection[str],
    *,
    table: Mapping[str, Service],
    migrate: tuple[str, ...],
    received: list[int],
) -> int:
    ran_before = local_stack.running(var)

    def interrupted() -> bool:
        return bool(received)

    def impatient() -> bool:
        return len(received) > 1

    kept = False
    try:
        values = _start_servers(var, detach)
        _write_environment(var, values)
        _migrate(var, migrate, values, interrupted)
        pending = {
            name: _spawn(var, name, table[name], values, attached=not detach)
            for name in table
            if name in services and not interrupted()
        }
        for name, started in pending.items():
            _await(var, name, table[name], started, values, interrupted=interrupted)
        if not interrupted():
            # Up is up, also where nobody reads the table to its end.
            kept = detach
            with contextlib.suppress(BrokenPipeError):
                _show(var, table, values)
            if detach:
                return 0
            _console.print("Ctrl-C stops everything; a second one kills it.")
            _supervise(var, table, values, interrupted)
        return 0
    finally:
        if not kept:
            if received:
                _console.print("Stopping …")
            _stop_services(var, _recorded_services(var), table, impatient)
            mine = [name for name in local_stack.ALL if not detach or name not in ran_before]
            local_stack.stop(var, names=mine, quick=impatient())


def _start_servers(var: Path, detach: bool) -> dict[str, str]:
    """Start what the environment does not name; the settings for everything."""
    # Someone who has sourced our own tenure.env has not configured anything else.
    ours = local_stack.environment(var)
    configured = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("TENURE_") and value and ours.get(name) != value
    }
    names = [
        name
        for name, address in _ADDRESSES.items()
        if address not in configured and f"{address}{_FILE}" not in configured
    ]
    port = configured.get("TENURE_FLOWER_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536 and port_is_free(int(port))):
        raise EmbeddedServerError(
            f"TENURE_FLOWER_PORT is {port!r}, which is not a free port. Set another, or unset it to let one be chosen."
        )
    given = local_stack.start(var, names=names, keep_running=detach).environment
    return given | {
        name: value
        for name, value in configured.items()
        if (base := name.removesuffix(_FILE)) not in given or base in _TASTE
    }


def _write_environment(var: Path, values: Mapping[str, str]) -> None:
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))
    processes.write_atomically(
        var / "tenure.env", "# The addresses of what `tenure up` started: set -a; . tenure.env\n" + text
    )


def _migrate(var: Path, command: tuple[str, ...], values: Mapping[str, str], interrupted: Callable[[], bool]) -> None:
    log = var / "log" / "migrate.log"
    log.unlink(missing_ok=True)
    process = processes.spawn(command, log=log, environment=_full(values), directory=Path.cwd(), attached=True)
    code = processes.exit_code(process, _MIGRATION_TIMEOUT, interrupted)
    if code != 0 and not interrupted():
        raise EmbeddedServerError(
            f"The database was not brought to the newest schema (`tenure migrate` ended with {code})."
            f" The end of {log}:\n{processes.tail(log)}"
        )


def _full(values: Mapping[str, str]) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("TENURE_")}
    return others | {"PYTHONUNBUFFERED": "1"} | dict(values)


def _spawn(var: Path, name: str, service: Service, values: Mapping[str, str], *, attached: bool) -> tuple[Process, int]:
    """The process, and where in its log its own words begin."""
    log = var / "log" / f"{name}.log"
    offset = processes.make_room(log)
    process = processes.spawn(
        [part.replace("{var}", str(var)) for part in service.command],
        log=log,
        environment=_full(values),
        directory=Path.cwd(),
        attached=attached,
    )
    processes.record(var, name, process)
    return process, offset


def _await(
    var: Path,
    name: str,
    service: Service,
    started: tuple[Process, int],
    values: Mapping[str, str],
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    process, offset = started
    began = time.monotonic()
    log = var / "log" / f"{name}.log"
    while not interrupted():
        if not processes.alive(process):
            raise EmbeddedServerError(f"{name} ended before it served. The end of {log}:\n{processes.tail(log)}")
        if service.says is not None:
            if _says(log, offset, service.says):
                return
        elif service.listens is not None:
            if _listens(int(values[service.listens])):
                return
        elif time.monotonic() - began > _SETTLED_AFTER:
            return
        if time.monotonic() - began > _READY_TIMEOUT:
            raise EmbeddedServerError(
                f"{name} (process {process.pid}) did not serve within {_READY_TIMEOUT:.0f} s. The end of {log}:\n"
                + processes.tail(log)
            )
        time.sleep(_POLL)


def _says(log: Path, offset: int, words: str) -> bool:
    with log.open("rb") as file:
        file.seek(offset)
        return words.encode() in file.read()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
        return True
    return False


def _supervise(
    var: Path, table: Mapping[str, Service], values: Mapping[str, str], interrupted: Callable[[], bool]
) -> None:
    """Start again what dies, after a pause that grows while it keeps dying."""
    deaths: dict[str, int] = {}
    since: dict[str, float] = {}
    due: dict[str, float] = {}
    while not interrupted():
        now = time.monotonic()
        for name in (*local_stack.ALL, *table):
            process = processes.recorded(var, name)
            if process is None or processes.alive(process):
                due.pop(name, None)
                continue
            if name not in due:
                if now - since.get(name, now) > _HEALTHY_LIFE:
                    deaths[name] = 0
                deaths[name] = deaths.get(name, 0) + 1
                pause = min(_LONGEST_BACKOFF, 0.25 * 2 ** deaths[name])
                due[name] = now + pause
                _console.print(
                    f"{name} (process {process.pid}) has ended; starting it again in {pause:g} s."
                    f" Its log: {var / 'log' / name}.log",
                    markup=False,
                )
            elif now >= due[name]:
                del due[name]
                since[name] = now
                _start_again(var, name, table, values)
        time.sleep(_POLL)


def _start_again(var: Path, name: str, table: Mapping[str, Service], values: Mapping[str, str]) -> None:
    try:
        if name in table:
            _spawn(var, name, table[name], values, attached=True)
        else:
            local_stack.start(var, names=[name])
    except EmbeddedServerError as error:
        _errors.print(str(error))


def _already_up(var: Path, already: Mapping[str, int], services: Collection[str]) -> int:
    listed = ", ".join(f"{name} (process {pid})" for name, pid in already.items())
    absent = [name for name in services if name not in already]
    _console.print(f"Tenure already runs under {var}: {listed}. Nothing was changed.", markup=False)
    if absent:
        _errors.print(f"Not running: {', '.join(absent)}. To start all of it again: tenure down, then tenure up.")
    return 1 if absent else 0


def _recorded_services(var: Path) -> list[str]:
    """Every record that is neither a server's nor an `up`'s own: also of services that a later table lacks."""
    names = sorted(path.stem for path in (var / "run").glob("*.json") if not path.name.startswith("."))
    return [name for name in names if name not in local_stack.ALL and name != "up"]


def _stop_services(
    var: Path,
    names: Collection[str],
    table: Mapping[str, Service],
    impatient: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Stop them side by side; the names of those that ran."""
    recorded = {name: process for name in names if (process := processes.recorded(var, name)) is not None}
    ran = [name for name, process in recorded.items() if processes.alive(process)]
    with ThreadPoolExecutor(max_workers=max(1, len(recorded))) as pool:
        for name, process in recorded.items():
            processes.forget(var, name)
            grace = table[name].grace if name in table else 10.0
            pool.submit(processes.end, process, ((signal.SIGTERM, grace),), impatient)
    return ran


def _end_foreground(var: Path) -> list[str]:
    """Ask an `up` that is at work here to stop what it started; what ran until then."""
    process = processes.running(var, "up")
    if process is None:
        return []
    ran = [name for name in _recorded_services(var) if service_pid(var, name) is not None] + list(
        local_stack.running(var)
    )
    processes.send(process, signal.SIGTERM)
    if not processes.wait_until_gone([process], _DOWN_TIMEOUT):
        raise EmbeddedServerError(
            f"The `tenure up` with process id {process.pid} did not stop within {_DOWN_TIMEOUT:.0f} s."
            f" To kill it: kill -9 {process.pid}; then run `tenure down` again."
        )
    return ran


def _show(var: Path, table: Mapping[str, Service], values: Mapping[str, str]) -> None:
    shown = Table(box=None, pad_edge=False)
    for column in ("what", "process", "where"):
        shown.add_column(column, no_wrap=True)
    local = local_stack.running(var)
    for name, address in _ADDRESSES.items():
        process = str(local[name]) if name in local else "not ours"
        shown.add_row(name, process, _without_password(values.get(address, "")))
    for name in table:
        where = f"http://{LOOPBACK}:{values.get('TENURE_FLOWER_PORT')}" if name == "flower" else ""
        if (pid := service_pid(var, name)) is not None:
            shown.add_row(name, str(pid), where)
    _console.print(shown)
    _console.print(f"Logs: {var / 'log'}", markup=False)
    _console.print(f"Addresses and passwords: set -a; . {shlex.quote(str(var / 'tenure.env'))}", markup=False)


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _own(var: Path) -> None:
    """Make the folder, and mark it as ours: only a marked one can be purged."""
    try:
        (var / "run").mkdir(parents=True, exist_ok=True)
        (var / "log").mkdir(exist_ok=True)
        if not (var / _MARK).exists():
            (var / _MARK).write_text(_MARK_TEXT)
    except OSError as error:
        raise EmbeddedServerError(
            f"{var} cannot be used ({error.strerror}: {error.filename})."
            " Choose another folder, or make this one yours and writable."
        ) from error


def _is_ours(var: Path) -> bool:
    mark = var / _MARK
    return not var.is_symlink() and mark.is_file() and mark.read_text(errors="replace") == _MARK_TEXT


def _purge(var: Path) -> None:
    try:
        for name in _MADE:
            path = var / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise EmbeddedServerError(f"{error.filename} cannot be removed: {error.strerror}.") from error
    with contextlib.suppress(OSError):
        var.rmdir()  # unless it holds what others put there


def _myself() -> Process:
    return processes.identify(os.getpid()) or Process(os.getpid(), "")


@contextlib.contextmanager
def _only_one(var: Path) -> Iterator[str | None]:
    """Hold the folder for one `up` or `down`; yields None, or else who holds it. The kernel lets go if we die."""
    with (var / "run" / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = processes.running(var, "up")
            yield "" if holder is None else f" (process {holder.pid})"
            return
        yield None


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and SIGHUP instead of dying of them; a third one is obeyed at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 2:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
