"""The local mail server: our own SMTP inbox (`workers/local/servers/inbox.py`), which keeps each message as a file."""

import contextlib
import importlib.util
import signal
import socket
import sys

from workers.local.place import LOOPBACK, Place
from workers.local.server import Launch, Server, missing, nothing

_ADDRESS = "TENURE_MAIL_URL"


def _prepare(place: Place) -> None:
    if importlib.util.find_spec("aiosmtpd") is None:
        raise missing("mail server", _ADDRESS)
    place.folder("inbox", 0o700)


def _launch(place: Place) -> Launch:
    folder = place.folder("inbox", 0o700)
    command = [sys.executable, "-m", "workers.local.servers.inbox"]
    return Launch([*command, "--port", str(place.ports["inbox"]), "--directory", str(folder)], place.directory)


def _answers(place: Place) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, place.ports["inbox"]), 3) as connection:
        connection.settimeout(3)
        greeting = connection.recv(512)
        connection.sendall(b"QUIT\r\n")
        return greeting.startswith(b"220 ")
    return False


def _environment(place: Place) -> dict[str, str]:
    return {
        _ADDRESS: f"smtp://{LOOPBACK}:{place.ports['inbox']}",
        "TENURE_INBOX": str(place.directory / "inbox"),
    }


INBOX = Server(
    name="inbox",
    ports=("inbox",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    settle=nothing,
    environment=_environment,
    steps=((signal.SIGTERM, 3.0),),
)
