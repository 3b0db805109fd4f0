"""What tasks need of the outside world, as small protocols; `workers/wiring/bootstrap.py` builds the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map.map import MAIN, DataMap, own_map
from tasks.crypto.keyring import Keyring
from tasks.crypto.signing import Signer
from tasks.ports.audit import Auditor
from tasks.ports.durations import Terms
from tasks.ports.keys import KeyStore
from tasks.ports.mail import Letterhead, Mailer
from tasks.ports.objects import ObjectStore
from tasks.ports.payments import PaymentGateway
from tasks.ports.processors import OutsideProcessor
from tasks.ports.sessions import SessionStore
from tasks.ports.waker import Waker

#: What the data map's Redis keys without an address of their own lie in.
BROKER: Final = "broker"


@dataclass(frozen=True, slots=True)
class Estate:
    """Where data of customers lies: the data map, Tenure's part and the company's, and each database that it names."""

    map: DataMap
    databases: Mapping[str, Database]
    #: By the environment variable that holds the address; under `BROKER`, the broker.
    keys: Mapping[str, KeyStore] = field(default_factory=dict)
    #: By the name that the data map gives them: those that have an address.
    processors: Mapping[str, OutsideProcessor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    database: Database
    objects: ObjectStore
    mailer: Mailer
    letterhead: Letterhead
    wake: Waker
    #: `host|pid|start` of this process.
    worker: str
    #: Of the processes on this host that are named so, those that are no more.
    dead: Callable[[Sequence[str]], list[str]]
    #: Whether this process was asked to stop.
    stopping: Callable[[], bool]
    #: None where dependencies are not audited.
    auditor: Auditor | None = None
    #: How long a claim is held without renewal, and how long one drain goes on.
    lease: timedelta = timedelta(seconds=60)
    budget: timedelta = timedelta(seconds=10)
    #: How long after its sending the data of a message are kept (E12).
    remembered: timedelta = timedelta(days=30)
    #: How long after a purge its stores are looked at again: longer than any upload or task lasts (T23).
    quiet: timedelta = timedelta(hours=24)
    #: The session stores of other programs.
    session_stores: Sequence[SessionStore] = ()
    #: What seals and opens objects of accounts (T17); an empty one refuses to.
    keyring: Keyring = field(default_factory=Keyring)
    #: What signs certificates and the ledger of erasures (T25, T26); an empty one refuses to.
    signer: Signer = field(default_factory=Signer)
    terms: Terms = field(default_factory=Terms)
    #: None where no provider is configured: then nothing is collected.
    payments: PaymentGateway | None = None
    #: The company's own part of the data map, and its further databases. Raises `Permanent` where it cannot be read.
    company: Callable[[], Estate] = lambda: Estate(DataMap(()), {})

    def estate(self) -> Estate:
        """All of it: what an export reads and a purge removes. Raises as `company` does."""
        company = self.company()
        return replace(company, map=own_map(Base) + company.map, databases={MAIN: self.database, **company.databases})


def provider_is_configured(ports: Ports) -> bool:
    """Return whether there is a payment provider: without one, nothing is collected."""
    return ports.payments is not None


class _Current:
    build: Callable[[], Ports] | None = None
    ports: Ports | None = None


def provide(build: Callable[[], Ports]) -> None:
    """Say how this process gets its ports; `current` builds them once, at the first need."""
    _Current.build = build
    _Current.ports = None


def current() -> Ports:
    if _Current.ports is None:
        if _Current.build is None:
            message = "no ports were provided: tasks run in a worker (celery -A workers.app worker) or in a test"
            raise RuntimeError(message)
        _Current.ports = _Current.build()
    return _Current.ports
