"""What a web tier in Python calls to keep a customer's files (P2.1c). It imports no Celery.

    from tasks.client.files import discard_file, store_file

    file = store_file(database, objects, keyring, account="acme", name="plan.pdf", media_type="application/pdf",
                      content=request.stream)

`Keyring(TENURE_KEY_ENCRYPTION_KEYS)` is what seals it: what lies in the object store is sealed with the account's key
(T27), and size and hash in the row are those of the file itself. `tasks/client/documents.py` has the way back.

A file is a row and an object. The order of things makes sure that no object is without a row and no row in `stored`
without its object:

1. the row, `uploading`, committed;
2. the object, as a multipart upload, hashed on its way, in flat memory;
3. the row, `stored`, with size and hash, committed.

What may go wrong, and what becomes of it:

- The process dies between 1 and 3: the row stays `uploading`, with or without an object or parts of one. When it is a
  day old, `files.sweep` sets it to `discarded`, removes the object and its parts, and then the row.
- The source or the object store fails within 2, or the account is frozen meanwhile: the same is done at once. Where
  that fails, too, the sweep does it.
- The answer to the COMMIT of 3 is lost: the row decides. What was to be discarded then and is `stored`, is stored. If
  PostgreSQL is gone for longer, the caller gets the error; the file is stored or, a day later, gone.
- Nothing removes an object but after its row was committed as `discarded`, and only what is `uploading` becomes
  `stored`: of two that race, such as a slow upload and the sweep, one finds no row.
- A process sleeps through the day and wakes in 2: its upload was aborted by the sweep, so it cannot complete it. Before
  completing it also looks at the time, and gives up after `LONGEST_UPLOAD`.
- It sleeps between that look and the completing: the object is then under the account's prefix without a row. The
  purge, which goes by the prefix, finds it.
- The account is frozen before 3: nothing is written for it any more, so the row stays `uploading` until the purge; the
  object goes.
- A file is discarded: the row says so in the caller's transaction; the sweep removes the object, and then the row. If
  it dies in between, the next one finds the row again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Protocol, runtime_checkable
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.customers.submission import SubmittedFile
from models.data_map.places import AccountPlace
from tasks.crypto.age import Recipient
from tasks.crypto.keyring import Keyring
from tasks.engine.failpoints import failpoint
from tasks.failures import Failure, Permanent
from tasks.ports.objects import ObjectStore
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from tasks.storage.text import UNSTORABLE

#: An upload that takes longer is given up. The sweep waits for far more.
LONGEST_UPLOAD = timedelta(hours=6)
SWEPT_AFTER = timedelta(hours=24)
CHUNK = 1 << 20
#: Files looked at in one go by the sweep.
BATCH = 100


#: The rows of others are not changed any more: they were exported, and what was exported has to be purged (T9, T11).
OF_ACTIVE = "account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active')"

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(;[ -~]{0,200})?", re.ASCII)


@runtime_checkable
class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is stored: its row is committed, its object is whole."""

    id: UUID
    object_key: str
    #: In bytes.
    size: int
    sha256: bytes


def store_file(
    database: Database,
    objects: ObjectStore,
    keyring: Keyring,
    *,
    account: str,
    name: str,
    content: Readable | Iterable[bytes],
    media_type: str = "application/octet-stream",
) -> Stored:
    """Keep a file of the account `account` (its ref), in transactions of its own.

    Raises ValueError where the account is not active, or name or media type are unfit; `Unavailable` or `Permanent`
    where the object store fails or nothing can be sealed; and whatever `content` raises. Nothing is stored then.
    """
    if not name or len(name) > 255 or UNSTORABLE.search(name):
        raise ValueError("a file's name has 1 to 255 characters, none of them NUL or half a surrogate pair")
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ValueError("the media type of a file is none: write application/octet-stream where it is not known")
    begun = monotonic()
    recipient = _recipient(database, keyring, account)
    with database.connection() as connection:
        row = connection.execute(
            text("""
                INSERT INTO tenure.submitted_files (account_id, name, media_type)
                SELECT id, :name, :media_type FROM tenure.accounts WHERE ref = :account AND status = 'active'
                RETURNING id, account_id, object_key"""),
            {"account": account, "name": name, "media_type": media_type},
        ).one_or_none()
    if row is None:
        raise _not_active()
    failpoint("files.store", "after_insert")
    counted = _Counted(content, begun)
    try:
        sealed_objects.upload(objects, AccountPlace(SubmittedFile, row.account_id, str(row.id)), counted, recipient)
        failpoint("files.store", "after_upload")
    except BaseException:
        # Whatever it was, also a request that is given up; what cannot be removed now, the sweep removes.
        with suppress(DBAPIError):
            _give_up(database, objects, row.id, row.object_key)
        raise
    stored = Stored(row.id, row.object_key, counted.size, counted.sha256.digest())
    try:
        settled = _settle(database, stored)
    except DBAPIError:
        # COMMIT may have taken place or not, and this settles it.
        if _give_up(database, objects, row.id, row.object_key):
            raise
        return stored
    if not settled:
        _give_up(database, objects, row.id, row.object_key)
        raise Permanent("The file's account was frozen, or the upload given up, before it was complete.")
    return stored


def _recipient(database: Database, keyring: Keyring, account: str) -> Recipient:
    with database.transaction() as session:
        found = session.scalar(
            text("SELECT id FROM tenure.accounts WHERE ref = :account AND status = 'active'"), {"account": account}
        )
        if found is None:
            raise _not_active()
        keys = object_keys(session, [found])
    return keys.recipient(found, database, keyring)


def _not_active() -> ValueError:
    return ValueError("the file's account is not known, or no longer active: use the ref of an active account")


class _Counted:
    """The content, counted and hashed on its way."""

    def __init__(self, content: Readable | Iterable[bytes], begun: float) -> None:
        self._content, self._begun = content, begun
        self.size = 0
        self.sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks():
            self.size += len(chunk)
            self.sha256.update(chunk)
            yield chunk
            self._in_time()
        self._in_time()

    def _chunks(self) -> Iterable[bytes]:
        content = self._content
        # A file is iterable, too: by lines.
        return iter(lambda: content.read(CHUNK), b"") if isinstance(content, Readable) else content

    def _in_time(self) -> None:
        if monotonic() - self._begun > LONGEST_UPLOAD.total_seconds():
            raise Permanent(f"The upload took more than {LONGEST_UPLOAD}, and was given up: send the file again.")


def _settle(database: Database, stored: Stored) -> bool:
    with database.connection() as connection:
        settled = connection.execute(
            text("""
                UPDATE tenure.submitted_files AS file
                   SET state = 'stored', size = :size, sha256 = :sha256, stored_at = now()
                  FROM tenure.accounts AS account
                 WHERE file.id = :id AND file.state = 'uploading' AND account.id = file.account_id
                   AND account.status = 'active'"""),
            {"id": stored.id, "size": stored.size, "sha256": stored.sha256},
        ).rowcount
        failpoint("files.store", "before_commit")
    failpoint("files.store", "after_commit")
    return settled > 0


def _give_up(database: Database, objects: ObjectStore, file: UUID, key: str) -> bool:
    """Remove an upload that is not stored; False where it is, and nothing was touched."""
    with database.connection() as connection:
        given_up = connection.execute(
            text(f"""
                UPDATE tenure.submitted_files SET state = 'discarded'
                 WHERE id = :id AND state = 'uploading' AND {OF_ACTIVE}"""),
            {"id": file},
        ).rowcount
        left = connection.execute(
            text("SELECT FROM tenure.submitted_files WHERE id = :id AND state = 'uploading'"), {"id": file}
        ).rowcount
    with suppress(Failure, DBAPIError):
        if given_up:
            _remove(database, objects, file, key)
        elif left:
            objects.erase(key)
    return given_up + left > 0


def discard_file(connection: Connection, *, account: str, file: UUID) -> bool:
    """Give a file up, in the caller's transaction; whether there was one. Its object goes with the next sweep."""
    gone = connection.execute(
        text("""
            UPDATE tenure.submitted_files SET state = 'discarded' WHERE id = :id AND state = 'stored'
               AND account_id = (SELECT id FROM tenure.accounts WHERE ref = :account)"""),
        {"id": file, "account": account},
    )
    return gone.rowcount > 0


def sweep(database: Database, objects: ObjectStore, *, after: timedelta = SWEPT_AFTER, batch: int = BATCH) -> int:
    """Remove what was discarded, and uploads that did not end in `after`; how many went, `batch` at most."""
    with database.connection() as connection:
        connection.execute(
            text(f"""
                UPDATE tenure.submitted_files SET state = 'discarded' WHERE id = ANY (ARRAY(
                    SELECT id FROM tenure.submitted_files
                     WHERE state = 'uploading' AND created_at < now() - :after AND {OF_ACTIVE}
                     ORDER BY created_at LIMIT :batch FOR UPDATE SKIP LOCKED))"""),
            {"after": after, "batch": batch},
        )
        failpoint("files.sweep", "before_commit")
    with database.connection() as connection:
        discarded = connection.execute(
            text(f"""
                SELECT id, object_key FROM tenure.submitted_files WHERE state = 'discarded' AND {OF_ACTIVE}
                 ORDER BY created_at LIMIT :batch"""),
            {"batch": batch},
        ).all()
    for row in discarded:
        _remove(database, objects, row.id, row.object_key)
    return len(discarded)


def _remove(database: Database, objects: ObjectStore, file: UUID, key: str) -> None:
    """Remove what is `discarded`. The object first: a row without it is found again, an object without a row is not."""
    objects.erase(key)
    failpoint("files.sweep", "after_erase")
    with database.connection() as connection:
        connection.execute(
            text("DELETE FROM tenure.submitted_files WHERE id = :id AND state = 'discarded'"), {"id": file}
        )
