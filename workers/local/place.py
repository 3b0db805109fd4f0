"""Where the local servers of one directory live: their folders, passwords and ports, the same at every start."""

import base64
import contextlib
import fcntl
import hmac
import json
import secrets
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.local.errors import EmbeddedServerError
from workers.local.processes import write_atomically

LOOPBACK = "127.0.0.1"

# Below the ports that Linux (32768) and macOS (49152) hand out for outgoing connections: no client takes a stopped
# server's port by chance, and none that retries it can connect to itself.
_FIRST_PORT, _LAST_PORT = 15000, 32000
_LOCK_TIMEOUT = 120.0
_PORT_TIMEOUT = 2.0


@dataclass(frozen=True)
class Secrets:
    """Random, made once for each directory; the data is readable only with them."""

    postgres_superuser: str
    postgres: str
    valkey: str
    s3_access_key: str
    s3_secret_key: str
    flower: str

    @property
    def key_encryption_key(self) -> str:
        """For TENURE_KEY_ENCRYPTION_KEYS: derived, so that places that are older than the setting have one, too."""
        return self._derived(b"key-encryption key")

    @property
    def certificate_key(self) -> str:
        """The same for TENURE_CERTIFICATE_KEYS."""
        return self._derived(b"certificate key")

    def _derived(self, purpose: bytes) -> str:
        return base64.b64encode(hmac.digest(self.s3_secret_key.encode(), purpose, "sha256")).decode()


@dataclass(frozen=True)
class Place:
    directory: Path
    secrets: Secrets
    ports: dict[str, int]
    fast: bool = False
    attached: bool = False

    def folder(self, name: str, mode: int = 0o755) -> Path:
        path = self.directory / name
        path.mkdir(mode=mode, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"


def open_place(directory: Path, *, fast: bool, attached: bool) -> Place:
    """The place at `directory`, made on first use."""
    try:
        for folder in (directory, directory / "run", directory / "log"):
            folder.mkdir(parents=True, exist_ok=True)
        return Place(directory, _secrets(directory), _read_ports(directory), fast, attached)
    except OSError as error:
        raise EmbeddedServerError(
            f"{directory} cannot be used for the local servers ({error.strerror}: {error.filename})."
            " Choose another folder, or make this one yours and writable."
        ) from error


def existing_place(directory: Path) -> Place | None:
    """The place at `directory` if servers were ever started there."""
    if not (directory / "secrets.json").exists():
        return None
    return Place(directory, _secrets(directory), _read_ports(directory))


def _secrets(directory: Path) -> Secrets:
    path = directory / "secrets.json"
    if not path.exists():
        made = Secrets(
            postgres_superuser=secrets.token_hex(16),
            postgres=secrets.token_hex(16),
            valkey=secrets.token_hex(16),
            s3_access_key="TENURE" + secrets.token_hex(7).upper(),
            s3_secret_key=secrets.token_hex(20),
            flower=secrets.token_hex(8),
        )
        write_atomically(path, json.dumps(vars(made), indent=2) + "\n")
    try:
        return Secrets(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise EmbeddedServerError(
            f"{path} does not hold the passwords of the local servers ({error})."
            " Restore it, or remove the whole folder to begin anew."
        ) from error


def _read_ports(directory: Path) -> dict[str, int]:
    try:
        return {str(name): int(port) for name, port in json.loads((directory / "ports.json").read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}  # only a preference: new ones are as good


def assign_ports(place: Place, names: Collection[str], offsets: Collection[int] = (0,)) -> None:
    """Give each name a port that is free, at all `offsets`: the remembered one if it is, else another.

    A server that was killed a moment ago holds its ports until the last of its threads has ended: that is waited for.
    """
    before = dict(place.ports)
    deadline = time.monotonic() + _PORT_TIMEOUT
    for name in names:
        taken = {port + offset for other, port in place.ports.items() if other != name for offset in offsets}
        while name in place.ports and not _are_free(place.ports[name], offsets, taken):
            if time.monotonic() > deadline:
                del place.ports[name]
            else:
                time.sleep(0.02)
        if name not in place.ports:
            place.ports[name] = _free_port(offsets, taken)
    if place.ports != before:
        write_atomically(place.directory / "ports.json", json.dumps(place.ports, indent=2) + "\n", 0o644)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections of their last run that still fade away (TIME_WAIT) do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _are_free(port: int, offsets: Collection[int], taken: Collection[int]) -> bool:
    return all(port + offset not in taken and port_is_free(port + offset) for offset in offsets)


def _free_port(offsets: Collection[int], taken: Collection[int]) -> int:
    choices = _LAST_PORT - _FIRST_PORT - max(offsets)
    for _ in range(1000):
        port = _FIRST_PORT + secrets.randbelow(choices)
        if _are_free(port, offsets, taken):
            return port
    raise EmbeddedServerError(f"No free port was found between {_FIRST_PORT} and {_LAST_PORT} on {LOOPBACK}.")


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """One start or stop at a time in one directory; the kernel lets go if we die."""
    path = directory / "run" / "servers.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise EmbeddedServerError(
            f"{directory} cannot be used for the local servers ({error.strerror}: {error.filename})."
            " Choose another folder, or make this one yours and writable."
        ) from error
    with file:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"Another process has been starting or stopping the servers in {directory} for"
                        f" {_LOCK_TIMEOUT:.0f} s (it holds {path})."
                    ) from None
                time.sleep(0.02)
        yield
