"""A document as it was sent, out of the object store and into a file of the operator's (T27)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from models.base.unit_of_work import Database
from tasks.client.documents import Opened
from tasks.crypto.keyring import Keyring
from tasks.ports.objects import ObjectStore
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import settings
from workers.terminal.output import CommandFailed

#: One of `tasks.client.documents`, but for what it opens.
Open = Callable[[Database, ObjectStore, Keyring], Opened]


def save(opening: Open, out: Path) -> str:
    """Write the document to `out`, and return a sentence that says so. Raises CommandFailed if nothing was written."""
    chosen = settings()
    try:
        document = opening(Database(chosen.database_url), S3ObjectStore(chosen), Keyring(chosen.key_encryption_keys))
        body = b"".join(document.content())
    except ValueError as refusal:
        raise CommandFailed(f"{refusal}.") from refusal
    if hashlib.sha256(body).digest() != document.sha256:
        raise CommandFailed(f"what lies under {document.key} is not what was sent: its SHA-256 is another.")
    try:
        out.write_bytes(body)
    except OSError as error:
        raise CommandFailed(f"{out} cannot be written: {error.strerror}.") from error
    return f"{out}: {len(body):,} bytes, as it was sent."
