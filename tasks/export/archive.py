"""The record of an account's data as one archive (P6.1, T11 to T17): written, sealed, and read back.

    PostgreSQL --COPY--> CSV --> hash --> deflate, ZIP --> age --> hash --> parts --> S3
         one thread        |          a second one          |        the caller's

Nothing touches a disk, and no more than a few parts are in memory at a time. Each database of the data map is read in
one snapshot. An export may be begun again at any time: each run writes an object of its own below the archive's folder,
and whoever records a run's result says thereby which one counts. What a run left unfinished, the next one removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from models.data_map.map import MAIN, AccountKeys, DataMap, MappedTable, ObjectPrefix
from models.data_map.places import Folder, FolderPlace
from models.termination.purge import StoreKind
from tasks.crypto.age import Identity, Recipient, Sealed, SealError, seal
from tasks.engine.failpoints import failpoint
from tasks.export import copying, manifest, submitted
from tasks.export.manifest import (
    AccountEntry,
    ColumnEntry,
    Entry,
    Kind,
    Manifest,
    Omission,
    RetainedEntry,
    Snapshot,
    column_of,
    where,
)
from tasks.export.naming import Names
from tasks.export.prefetch import ahead
from tasks.export.shaping import SESSION, shape
from tasks.failures import Permanent, Transient
from tasks.ports.context import Ports
from tasks.ports.objects import ObjectStore, StoredObject
from tasks.storage import sealed_objects

if TYPE_CHECKING:
    from stream_zip import MemberFile

#: The folder of all archives in the object store.
CONTENT_TYPE: Final = "application/octet-stream"
#: Pieces of a quarter of a megabyte: that PostgreSQL may be ahead, and of the sealed file, that the ZIP may be.
_ROWS_AHEAD: Final = 4
_PIECES_AHEAD: Final = 8
#: Bytes that the ZIP is handed on in.
_ZIP_PIECE: Final = 1 << 18
#: isal's 1 is deflate at four times the speed of zlib's 6, and a few per cent larger.
_LEVEL: Final = 1
_MODE: Final = 0o600

Item = TypeVar("Item")
#: How many rows or objects of each store are written, by kind, place and name as `tenure.purge_stores` has them.
Made = Mapping[tuple[str, str, str], int]


def folder(archive: UUID) -> str:
    """Below which an archive lies, whichever of its runs made it."""
    return f"{Folder.ARCHIVES.prefix}{archive}/"


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why the archive is made; a disclosure bears the reference of its case (T29)."""

    name: str = manifest.TERMINATION
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """What is asked for. `id` is the termination's or the disclosure's own, and so the same at every attempt."""

    id: UUID
    account: AccountKeys
    #: The README for a person, ready to read.
    readme: str
    occasion: Occasion = Occasion()
    #: What stays when all else is purged (T8); None where no purge follows. The README tells the same.
    retained: tuple[RetainedEntry, ...] | None = ()

    @property
    def folder(self) -> str:
        return folder(self.id)

    def place(self, run: UUID) -> FolderPlace:
        return FolderPlace(Folder.ARCHIVES, f"{self.id}/{run}.zip.age")


@dataclass(frozen=True, slots=True)
class Export:
    """An archive in the object store; what `export` returns has been read back (T2)."""

    key: str
    #: Of the sealed file and of the manifest in it.
    archive_sha256: bytes
    manifest_sha256: bytes
    #: Of the sealed file, and of the ZIP in it.
    size: int
    content_size: int
    #: Rows by database and table, as COPY counted them: what a purge has to find (T11).
    rows: Mapping[tuple[str, str], int]
    objects: int


def export(
    ports: Ports,
    mapped: DataMap,
    archive: Archive,
    *,
    run: UUID,
    databases: Mapping[str, Database] | None = None,
    before_complete: Callable[[], None] = lambda: None,
    watch: Callable[[Made], None] = lambda _made: None,
) -> Export:
    """Write the archive, and read it back. `run` is this attempt's own, such as the claim's token.

    `before_complete` is called when all is uploaded and nothing can be seen yet; what it raises stops the export.
    `watch` is called with every piece that is uploaded.
    Raises Unavailable, Transient or Permanent; then nothing of this run is left, if the object store can be asked.
    """
    exported = write(ports, mapped, archive, run=run, databases=databases, before_complete=before_complete, watch=watch)
    with ports.database.transaction() as session:
        identity = ports.keyring.identity(session, archive.account.id, KeyPurpose.EXPORT, archive.id)
    read_back(ports.objects, exported, identity)
    failpoint("termination.export", "after_read_back")
    return exported


def write(
    ports: Ports,
    mapped: DataMap,
    archive: Archive,
    *,
    run: UUID,
    databases: Mapping[str, Database] | None = None,
    before_complete: Callable[[], None] = lambda: None,
    watch: Callable[[Made], None] = lambda _made: None,
) -> Export:
    """As `export`, without the reading back."""
    for pattern in mapped.redis:
        if pattern.left_out is None:
            raise Permanent(
                f"The data map wants the Redis keys {pattern.pattern} to be exported, which is not built: give them a "
                "reason in left_out, or keep in PostgreSQL what belongs to the customer."
            )
    # First of all: where nothing can be encrypted, nothing is read (T17).
    with ports.database.transaction() as session:
        recipient = ports.keyring.recipient(session, archive.account.id, archive.id)
    ports.objects.abandon(archive.folder)
    writing = _Writing(ports, mapped, archive, {MAIN: ports.database, **(databases or {})})
    place = archive.place(run)
    made = ahead(writing.sealed(recipient), _PIECES_AHEAD)

    def pieces() -> Iterator[bytes]:
        for piece in made:
            failpoint("termination.export", "during_upload")
            watch(writing.made)
            yield piece
        before_complete()
        failpoint("termination.export", "before_complete")

    with closing(made):
        ports.objects.upload(place, pieces(), content_type=CONTENT_TYPE)
    failpoint("termination.export", "after_complete")
    return writing.exported(place.key)


def read_back(objects: ObjectStore, exported: Export, identity: Identity) -> None:
    """See that the object store holds what was written, and that its key opens it (T2). Raises Transient otherwise."""
    size, digest = 0, hashlib.sha256()
    for piece in objects.read(exported.key):
        digest.update(piece)
        size += len(piece)
    if size != exported.size or digest.digest() != exported.archive_sha256:
        raise Transient(
            f"The archive came back from the object store changed: {size:,} bytes instead of {exported.size:,}, or "
            "other ones. It is written anew."
        )
    try:
        Sealed(partial(objects.read, exported.key), size, identity)
    except SealError as error:
        raise Transient(f"The archive cannot be opened with its key: {error} It is written anew.") from error


def tidy(objects: ObjectStore, archive: Archive, keep: str) -> int:
    """Remove what other runs left of this archive, once it is recorded that `keep` is the one that counts.

    Only for whoever recorded it: a run that was overtaken must not judge which one counts.
    """
    objects.abandon(archive.folder)
    others = [each.key for each in objects.list(archive.folder) if each.key != keep]
    for key in others:
        objects.erase(key)
    return len(others)


@dataclass
class _Digest:
    """Bytes and SHA-256 of what goes through."""

    size: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def over(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.size += len(piece)
            self.sha256.update(piece)
            yield piece


class _Writing:
    """One run: the streams that make the archive, and what is counted on the way."""

    def __init__(self, ports: Ports, mapped: DataMap, archive: Archive, databases: Mapping[str, Database]) -> None:
        self._ports = ports
        self._map = mapped
        self._archive = archive
        self._databases = databases
        self._names = Names()
        self._entries: list[Entry] = []
        self._snapshots: list[Snapshot] = []
        self._rows: dict[tuple[str, str], int] = {}
        #: Added to by the thread that reads.
        self.made: dict[tuple[str, str, str], int] = {}
        self._whole = _Digest()
        self._content = _Digest()
        self._manifest_sha256 = b""
        self._schema_version = ""
        missing = sorted({table.database for table in mapped.tables} - databases.keys())
        if missing:
            raise Permanent(f"The data map names the database {missing[0]}, whose address is not set.")

    def sealed(self, recipient: Recipient) -> Iterator[bytes]:
        """The sealed file, in pieces."""
        # Not at the top: a worker that exports nothing has no use for them.
        from isal import isal_zlib  # noqa: PLC0415
        from stream_zip import stream_zip  # noqa: PLC0415

        with ExitStack() as open_snapshots:
            zipped = stream_zip(
                self._members(open_snapshots),
                chunk_size=_ZIP_PIECE,
                get_compressobj=lambda: isal_zlib.compressobj(level=_LEVEL, wbits=-15),  # type: ignore[arg-type,return-value]
            )
            yield from self._whole.over(seal(self._content.over(zipped), recipient))

    def exported(self, key: str) -> Export:
        return Export(
            key=key,
            archive_sha256=self._whole.sha256.digest(),
            manifest_sha256=self._manifest_sha256,
            size=self._whole.size,
            content_size=self._content.size,
            rows=self._rows,
            objects=sum(entry.kind is Kind.OBJECT for entry in self._entries),
        )

    def _members(self, open_snapshots: ExitStack) -> Iterator[MemberFile]:
        connections = {name: self._snapshot(name, open_snapshots) for name in self._needed()}
        yield self._readme()
        for table in self._map.tables:
            yield self._table(connections[table.database], table)
        # No snapshot need wait for the objects.
        open_snapshots.close()
        yield from self._objects()
        content = manifest.encode(self._manifest())
        self._manifest_sha256 = hashlib.sha256(content).digest()
        yield self._member(manifest.NAME, [content], None)

    def _readme(self) -> MemberFile:
        def entry(size: int, sha256: str) -> Entry:
            return Entry(path=manifest.README, kind=Kind.README, bytes=size, sha256=sha256)

        # With a byte order mark and CRLF, so that every editor shows it.
        return self._member(manifest.README, [self._archive.readme.replace("\n", "\r\n").encode("utf-8-sig")], entry)

    def _needed(self) -> list[str]:
        return [name for name in self._databases if name == MAIN or any(t.database == name for t in self._map.tables)]

    def _snapshot(self, name: str, open_snapshots: ExitStack) -> psycopg.Connection:
        connection = open_snapshots.enter_context(_read(self._databases[name]))
        with _in_words(f"the database {name}"):
            encoding = connection.execute("SHOW server_encoding").fetchone()
            if encoding == ("SQL_ASCII",):
                raise Permanent(
                    f"The database {name} has the encoding SQL_ASCII, so nobody knows what its texts say: no CSV in "
                    "UTF-8 can be made of it."
                )
            taken_at = connection.execute("SELECT now()").fetchone()
            if name == MAIN:
                version = connection.execute("SELECT version_num FROM tenure.schema_version").fetchone()
                self._schema_version = str(version[0]) if version else ""
        assert taken_at is not None  # noqa: S101 - SELECT now() has a row
        self._snapshots.append(Snapshot(name, taken_at[0].astimezone(UTC)))
        return connection

    def _table(self, connection: psycopg.Connection, table: MappedTable) -> MemberFile:
        with _in_words(str(table.name)):
            shaped = shape(connection, table, self._archive.account)
        path = self._names.table(table)
        counted = 0

        key = StoreKind.TABLE, table.database, str(table.name)

        def pieces() -> Iterator[bytes]:
            nonlocal counted
            self.made[key] = counted
            yield shaped.header
            copied = ahead(copying.rows(connection, shaped.select), _ROWS_AHEAD)
            try:
                for piece, rows in copied:
                    counted += rows
                    self.made[key] = counted
                    yield piece
            finally:
                copied.close()

        def entry(size: int, sha256: str) -> Entry:
            self._rows[table.database, str(table.name)] = counted
            return Entry(
                path=path,
                kind=Kind.TABLE,
                bytes=size,
                sha256=sha256,
                category=table.category,
                database=table.database,
                table=str(table.name),
                rows=counted,
                columns=tuple(ColumnEntry(each.name, each.type, each.form, each.guarded) for each in shaped.columns),
            )

        return self._member(path, pieces(), entry)

    def _objects(self) -> Iterator[MemberFile]:
        account = self._archive.account
        for prefix in self._map.objects:
            if prefix.left_out is not None:
                continue
            filled = prefix.of(account)
            listed = self._ports.objects.list(filled, bucket=prefix.bucket)
            if prefix == submitted.PREFIX:
                for each in submitted.submitted(self._ports.database, account.id, listed):
                    path = self._names.object(prefix, filled, each.stored.key, each.name)
                    yield self._object(path, prefix, each.stored, each.check)
            else:
                for stored in listed:
                    yield self._object(self._names.object(prefix, filled, stored.key), prefix, stored)

    def _object(
        self, path: str, prefix: ObjectPrefix, stored: StoredObject, check: Callable[[str], None] = lambda _sha256: None
    ) -> MemberFile:
        store = StoreKind.OBJECTS, prefix.bucket or "", prefix.prefix

        def entry(size: int, sha256: str) -> Entry:
            check(sha256)
            self.made[store] = self.made.get(store, 0) + 1
            return Entry(
                path=path, kind=Kind.OBJECT, bytes=size, sha256=sha256, category=prefix.category, key=stored.key
            )

        return self._member(path, self._content_of(prefix, stored), entry)

    def _content_of(self, prefix: ObjectPrefix, stored: StoredObject) -> Iterator[bytes]:
        """As the customer knows it: what lies sealed is opened (T27)."""
        objects = self._ports.objects
        if not prefix.sealed:
            return objects.read(stored.key, bucket=prefix.bucket)
        return sealed_objects.read(objects, stored, self._identity, bucket=prefix.bucket)

    @cached_property
    def _identity(self) -> Identity:
        """Of the account's objects. Raises Permanent where objects lie there, and no key to open them."""
        account = self._archive.account.id
        with self._ports.database.transaction() as session:
            return self._ports.keyring.identity(session, account, KeyPurpose.OBJECTS)

    def _member(self, path: str, pieces: Iterable[bytes], entry: Callable[[int, str], Entry] | None) -> MemberFile:
        from stream_zip import ZIP_64  # noqa: PLC0415

        digest = _Digest()

        def counted() -> Iterator[bytes]:
            yield from digest.over(pieces)
            if entry is not None:
                self._entries.append(entry(digest.size, digest.sha256.hexdigest()))

        return path, self._snapshots[0].taken_at, _MODE, ZIP_64, counted()

    def _manifest(self) -> Manifest:
        archive = self._archive
        return Manifest(
            archive=archive.id,
            occasion=archive.occasion.name,
            reference=archive.occasion.reference,
            account=AccountEntry(archive.account.id, archive.account.ref),
            schema_version=self._schema_version,
            map_sha256=map_sha256(self._map),
            snapshots=tuple(self._snapshots),
            files=tuple(self._entries),
            omissions=tuple(_omissions(self._map)),
            retained=archive.retained,
        )


def map_sha256(mapped: DataMap) -> str:
    """Names a data map, in hexadecimal: maps that say the same have the same."""
    return hashlib.sha256(repr(mapped).encode()).hexdigest()


def _omissions(mapped: DataMap) -> Iterator[Omission]:
    for table in mapped.tables:
        for column, reason in table.left_out.items():
            yield Omission(column_of(table.database, table.name, column), reason)
    for unmapped in mapped.unmapped:
        yield Omission(f"the table {where(unmapped.database, unmapped.name)}", unmapped.decision.reason)
    for prefix in mapped.objects:
        if prefix.left_out is not None:
            yield Omission(f"objects below {prefix.prefix}", prefix.left_out)
    for keys in mapped.redis:
        if keys.left_out is not None:
            yield Omission(f"Redis keys {keys.pattern}", keys.left_out)


@contextmanager
def _read(database: Database) -> Generator[psycopg.Connection, None, None]:
    """A connection in a read-only snapshot, its values written in the same way everywhere."""
    with database.snapshot() as session:
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, psycopg.Connection)  # noqa: S101 - the driver is ours to choose
        connection.execute(SESSION)
        try:
            yield connection
        except BaseException:
            if connection.closed or connection.info.transaction_status is TransactionStatus.ACTIVE:
                # Nothing answers there, or only the rest of a table: to roll back would raise, and hide what happened.
                session.invalidate()
            raise


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """What PostgreSQL says while we ask it about `what`, as a failure without a value in it."""
    try:
        yield
    except psycopg.Error as error:
        failure = copying.failure(error.sqlstate)
        raise type(failure)(f"{what}: {failure}") from error
    except DBAPIError as error:
        raise copying.failure(getattr(error.orig, "sqlstate", None)) from error
