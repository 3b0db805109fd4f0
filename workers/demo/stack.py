"""The demo's own stack, in a folder of its own: nothing of a running `tenure up` is touched, and nothing is left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from workers.local import processes, supervisor
from workers.local.errors import EmbeddedServerError
from workers.local.processes import Process
from workers.local.servers.payments import PaymentProvider

#: All but Beat, which begins when there is something to look at: its first ticks then find it all.
_SERVICES = ("worker", "relay", "flower")
_COMPANY = {
    "TENURE_COMPANY_NAME": "Harbour Ledger Ltd",
    "TENURE_COMPANY_ADDRESS": "14 Quay Street|Galway H91 E2K8|Ireland",
    "TENURE_COMPANY_EMAIL": "billing@harbour-ledger.example",
    "TENURE_COMPANY_WEBSITE": "harbour-ledger.example",
    "TENURE_COMPANY_REGISTRATION": "Registered in Ireland, no. 000000|VAT IE0000000AA",
    "TENURE_MAIL_FROM": "billing@harbour-ledger.example",
    # Nobody waits for weeks before a screen: a customer who leaves is erased, and looked for again, at once.
    "TENURE_GRACE_DAYS": "0",
    "TENURE_PURGE_QUIET_HOURS": "0",
}
_UP = (
    "import sys; from pathlib import Path; from workers.local import supervisor;"
    f"sys.exit(supervisor.up(Path(sys.argv[1]), sys.argv[2] == 'keep', {_SERVICES!r}))"
)
#: What an `up` in front says when all of it serves.
_READY = b"Ctrl-C stops everything"
_START_TIMEOUT = 180.0
#: The payment provider, which loses its first answer after it has taken the money.
_PROVIDER = "payments"
_FAULTS = ("lose_after",)
_PROVIDER_TIMEOUT = 30.0
#: What the demo itself puts beside what `up` makes; removed with it.
STATEMENT = "statement.pdf"
INVOICE = "invoice.pdf"
RECORD = "record.zip"
CERTIFICATE = "certificate.json"
KEY = "certificate.pem"


class Stack:
    """Servers, worker, relay and Flower, and Beat when it is asked for.

    keep: they are started to stay, as by `tenure up --detach`. Otherwise they hang on this process: an `up` in front
    watches over them, starts again what dies, and ends all of it when this process does, even by `kill -9` (Linux).
    """

    def __init__(self, folder: Path, *, keep: bool) -> None:
        self.folder = folder
        self.keep = keep
        self._up: Process | None = None

    def start(self) -> dict[str, str]:
        """Begin with an empty folder; returns every address. EmbeddedServerError says why it cannot be had."""
        self._purge()
        (self.folder / "log").mkdir(parents=True)
        payments = {"TENURE_STRIPE_SECRET_KEY": PaymentProvider.secret_key, "TENURE_STRIPE_API": self._start_provider()}
        log = self.folder / "log" / "up.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TENURE_")}
        self._up = processes.spawn(
            [sys.executable, "-c", _UP, str(self.folder.absolute()), "keep" if self.keep else "front"],
            log=log,
            environment=environment | _COMPANY | payments,
            directory=Path.cwd(),
            attached=True,
            death_signal=signal.SIGTERM,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            ended = not processes.alive(self._up)
            if _READY in log.read_bytes() or (self.keep and ended and self.runs("flower")):
                break
            if ended or time.monotonic() > deadline:
                raise EmbeddedServerError(processes.tail(log) or f"The local stack did not start; see {log}.")
            time.sleep(0.05)
        return supervisor.read_environment(self.folder)

    def _start_provider(self) -> str:
        """The payment provider, which charges nobody; its address."""
        log = self.folder / "log" / f"{_PROVIDER}.log"
        provider = processes.spawn(
            [sys.executable, "-m", "workers.local.servers.payments", *_FAULTS],
            log=log,
            environment=os.environ,
            directory=Path.cwd(),
            attached=not self.keep,
            death_signal=signal.SIGTERM,
        )
        # From here on `tenure down` ends it, too.
        (self.folder / "run").mkdir(exist_ok=True)
        processes.record(self.folder, _PROVIDER, provider)
        deadline = time.monotonic() + _PROVIDER_TIMEOUT
        while not (said := log.read_text(encoding="utf-8")).endswith("\n"):
            if not processes.alive(provider) or time.monotonic() > deadline:
                raise EmbeddedServerError(processes.tail(log) or f"The payment provider did not start; see {log}.")
            time.sleep(0.02)
        return said.splitlines()[-1]

    def start_beat(self) -> None:
        supervisor.start_service(self.folder, "beat")

    def runs(self, service: str) -> bool:
        return supervisor.service_pid(self.folder, service) is not None

    def stop(self, impatient: Callable[[], bool] = lambda: False) -> None:
        """End all of it; the data, messages and logs stay to be looked at."""
        if self._up is not None and processes.alive(self._up):
            processes.send(self._up, signal.SIGTERM)
            if not processes.wait_until_gone([self._up], 60.0, impatient):
                processes.send(self._up, signal.SIGTERM)  # the second one kills
                processes.wait_until_gone([self._up], 20.0)
        # An `up` that has done its work, or was itself killed, leaves this to us; else there is nothing to do.
        if (self.folder / "run").is_dir():
            self._tenure("down")

    def _purge(self) -> None:
        """Remove what an earlier demo left, which may still run."""
        if not self.folder.exists():
            return
        for made in (STATEMENT, INVOICE, RECORD, CERTIFICATE, KEY):
            (self.folder / made).unlink(missing_ok=True)
        if (self.folder / ".tenure").exists():
            self._tenure("down", "--purge")
        else:
            # A demo that was killed before its `up` began.
            shutil.rmtree(self.folder / "log", ignore_errors=True)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise EmbeddedServerError(
                f"{self.folder} holds what the demo did not make ({min(self.folder.iterdir()).name})."
                " Move it away, or give another folder with --var."
            )

    def _tenure(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "workers.commands", *arguments, "--var", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise EmbeddedServerError(done.stderr.strip() or done.stdout.strip())


@contextlib.contextmanager
def only_one(var: Path) -> Iterator[None]:
    """Hold `var` for one demo; the kernel lets go if we die."""
    try:
        var.mkdir(parents=True, exist_ok=True)
        lock = (var / "demo.lock").open("a")
    except OSError as error:
        raise EmbeddedServerError(
            f"{var} cannot be used ({error.strerror}: {error.filename}). Choose another folder with --var."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedServerError(
                f"Another `tenure demo` is at work in {var}. Wait for it, or give another folder with --var."
            ) from None
        yield
