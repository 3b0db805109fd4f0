"""What tasks need of the outside world, as small protocols; `workers/wiring/bootstrap.py` builds the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from email_templates.language.company import Company
from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map.map import MAIN, AccountKeys, DataMap, own_map
from models.data_map.places import ObjectPlace
from tasks.crypto.keyring import Keyring
from tasks.crypto.signing import Signer
from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here
from tasks.ports.payments import PaymentGateway

#: What the data map's Redis keys without an address of their own lie in.
BROKER: Final = "broker"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that the object store lists: its key, and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of an object, or the marker of a deletion: in a bucket without versions, the object itself."""

    key: str
    version: str


@dataclass(frozen=True, slots=True)
class Locked:
    """A version that the object store does not let go (Object Lock); `until` is None where that is not known."""

    stored: StoredVersion
    until: datetime | None


class ObjectStore(Protocol):
    def put(self, place: ObjectPlace, body: bytes, *, content_type: str) -> None:
        """Store `body` at `place`, whole or not at all. Raises `Unavailable` or `Permanent`."""

    def get(self, key: str) -> bytes:
        """The bytes stored under `key`. Raises `Unavailable`, or `Permanent` where there are none."""

    def read(self, key: str, start: int = 0, stop: int | None = None, *, bucket: str | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but without `stop`, in pieces; raises as `get` does.

        Here and in `list`, a bucket of None is that of the settings.
        """

    def list(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredObject]:
        """All objects whose keys begin with `prefix`, in the order of their keys. Raises `Unavailable`."""

    def versions(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredVersion]:
        """All versions below `prefix`, of objects that were deleted, too, and delete markers. Raises `Unavailable`."""

    def remove(self, versions: Sequence[StoredVersion], *, bucket: str | None = None) -> Sequence[Locked]:
        """Remove up to a thousand versions for good; those that are locked stay. Raises `Unavailable`."""

    def abandon(self, prefix: str, *, bucket: str | None = None) -> int:
        """Abort all uploads below `prefix` that were begun and not completed; returns how many. Raises `Unavailable`.

        A process that still uploads there gets `Transient`.
        """

    def unfinished(self, prefix: str, *, bucket: str | None = None) -> int:
        """How many uploads below `prefix` were begun and not completed. Raises `Unavailable`."""

    def upload(self, place: ObjectPlace, parts: Iterable[bytes], *, content_type: str) -> None:
        """Store the parts, of any sizes, one after the other at `place`, whole or not at all, in flat memory.

        What `parts` raises ends the upload and leaves no object. Raises `Unavailable`, or `Permanent` where it is too
        large. An upload that `erase` came across cannot be completed.
        """

    def erase(self, key: str) -> None:
        """Remove the object under exactly this key, all its versions, and uploads that were not completed.

        Nothing there is no error. Raises `Unavailable`.
        """


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message to one recipient: addresses for the transport, and the message as it goes over the wire."""

    sender: str
    recipient: str
    content: bytes
    #: Our own name for the message, which a provider quotes in what it tells of it later.
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Who took a message over, and what it said: of SMTP the answer, of an API the name that it gave the message."""

    transport: str
    answer: str


#: Asked at the last moment whether a message may go; what it locks stays locked until the message is settled.
Permit = Callable[[], AbstractContextManager[None]]


class Mailer(Protocol):
    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        """Hand the message over, and return what was said to it.

        `permit` is entered when the server has agreed to the recipient and before anything of the message leaves: with
        SMTP after RCPT and before DATA, with an API before the call. What it raises stops the sending, and the
        connection stays. It is left when the message was answered, refused or given up (B12).

        `before_commit` is called within it, just before the content leaves. What it raises stops the sending too.

        A failure before that call is certain and raises `Unavailable`, `Transient` (4xx) or `Permanent` (5xx); after
        it, a refusal is as certain, but silence raises `Ambiguous` (E10). No transport sends again by itself.
        """

    def close(self) -> None:
        """Hang up politely; the next `send` connects again."""


class Ambiguous(Exception):
    """The message was handed over, and no answer came: it may or may not have been accepted (E10)."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """What is publicly known against a version of a package: the advisory, and the versions without it."""

    package: str
    version: str
    advisory: str
    aliases: Sequence[str] = ()
    fixed_in: Sequence[str] = ()


class Auditor(Protocol):
    def __call__(self) -> tuple[int, Sequence[Vulnerability]]:
        """Look up what is installed: how many packages, and what is known against them. Raises `Unavailable`."""


class Waker(Protocol):
    def __call__(self, task: str) -> None:
        """See to it that a message for `task` waits in the broker; does nothing where one does. Never raises."""

    def waits(self, task: str) -> bool:
        """Whether a message for `task` waits for a free process. Never raises; False where the broker is away."""

    def begun(self, task: str) -> None:
        """Say that `task` began: what is due from now on deserves a new message. Never raises."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left in a session store, by its own clock."""

    #: When the oldest of them began, as far as the store tells; None where there is none.
    oldest_at: datetime | None
    #: How many of them will last for more than a day unless somebody acts.
    outlasting: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep of a store did: sessions ended, sessions whose end was brought forward, and whether it got to the
    end of the store."""

    gone: int
    cut: int
    finished: bool


class SessionStore(Protocol):
    """Sessions that another program keeps (S5)."""

    @property
    def name(self) -> str:
        """As the settings call it."""

    def check(self) -> None:
        """Raises `Permanent` where the store is not what its settings say, and `Unavailable` where it is away."""

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        """End the sessions that are a day old, in short steps, until none is left or `stopping`. Raises as `check`."""

    def end(self, account: AccountKeys) -> int:
        """End all sessions of a frozen account, as far as the data map tells whose they are; how many are left.

        What a legal hold names is kept: where the store can, so that nobody can read it, else as it is and not counted.
        Raises as `check`.
        """

    def left(self) -> Left:
        """What is left now. Raises as `check`."""

    def count(self) -> int:
        """How many sessions are stored. Raises as `check`."""

    def close(self) -> None:
        """Let go of connections; the next use makes new ones."""


class KeyStore(Protocol):
    """A Redis or Valkey in which keys of accounts lie (T21)."""

    def keys(self, pattern: str) -> Iterator[Sequence[bytes]]:
        """The keys that match, some at a time, as SCAN finds them. Raises `Unavailable` or `Permanent`."""

    def remove(self, keys: Sequence[bytes]) -> int:
        """Remove these keys; how many there were. Raises as `keys` does."""


class OutsideProcessor(Protocol):
    """A party outside that keeps data of customers, and tells and erases them when it is asked (T21)."""

    def records(self, account: AccountKeys) -> int:
        """How many records of the account it holds now. Raises `Unavailable`, or `Permanent` where it does not tell."""

    def erase(self, account: AccountKeys) -> None:
        """Ask it to erase them, at once or soon; asked twice it does no harm. Raises as `records` does."""


@dataclass(frozen=True, slots=True)
class Letterhead:
    """How the company signs: what templates show, and what mail headers need."""

    company: Company
    mail_from: str
    reply_to: str
    mail_domain: str
    #: The page below which each message has its own to unsubscribe by one click; None where there is none.
    unsubscribe: str | None = None


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
