"""What a web tier in Python calls to read what Tenure keeps for a customer. It imports no Celery.

    from tasks.client.documents import open_file

    file = open_file(database, objects, keyring, account="acme", file=file_id)
    return StreamingResponse(file.content(), media_type=file.media_type)

What is stored is sealed (T27), so no address of the object store gives it to anybody: it is opened here, in flat
memory, and in parts where parts are asked for. Whether whoever asks may read what is this account's, the caller knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from models.base.unit_of_work import Database
from tasks.crypto.age import Identity, sealed_size
from tasks.crypto.keyring import Keyring
from tasks.ports.objects import ObjectStore, StoredObject
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys

_FILE = text("""
    SELECT file.account_id, file.object_key AS key, file.name, file.media_type, file.size, file.sha256
      FROM tenure.submitted_files AS file JOIN tenure.accounts AS account ON account.id = file.account_id
     WHERE account.ref = :account AND file.id = :which AND file.state = 'stored'""")
_STATEMENT = text("""
    SELECT statement.account_id, statement.document_key AS key, statement.document_bytes AS size,
           statement.document_sha256 AS sha256, 'application/pdf' AS media_type,
           statement.account_ref || '-' || to_char(statement.period_start, 'YYYYMMDD') || '-' || statement.currency
           || '.pdf' AS name
      FROM tenure.statements AS statement JOIN tenure.accounts AS account ON account.id = statement.account_id
     WHERE account.ref = :account AND statement.id = :which AND statement.document_key IS NOT NULL""")
_INVOICE = text("""
    SELECT invoice.account_id, document.document_key AS key, document.document_bytes AS size,
           document.document_sha256 AS sha256, 'application/pdf' AS media_type, invoice.number || '.pdf' AS name
      FROM tenure.invoices AS invoice
      JOIN tenure.accounts AS account ON account.id = invoice.account_id
      JOIN tenure.invoice_documents AS document ON document.invoice_id = invoice.id
     WHERE account.ref = :account AND invoice.number = :which AND document.document_key IS NOT NULL""")


_ASKED = {"file": _FILE, "statement with a document": _STATEMENT, "invoice with a document": _INVOICE}


@dataclass(frozen=True, slots=True)
class Opened:
    """Something stored that can be read: what its row says, and its content."""

    #: As the customer called it, or as the document is called. It is data, not a path.
    name: str
    media_type: str
    #: In bytes; with the SHA-256 of the content.
    size: int
    sha256: bytes
    key: str
    _objects: ObjectStore = field(repr=False)
    _identity: Identity = field(repr=False)

    def content(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but without `stop`, in pieces.

        Raises `Unavailable` where the object store is away, and `Permanent` where what lies there is not what was
        stored; the pieces before that are.
        """
        stored = StoredObject(self.key, sealed_size(self.size))
        return sealed_objects.read(self._objects, stored, self._identity, start=start, stop=stop)


def open_file(database: Database, objects: ObjectStore, keyring: Keyring, *, account: str, file: UUID) -> Opened:
    """A file that was kept by `tasks.client.files.store_file`.

    Raises ValueError where the account has no such file, `Unavailable` without a key-encryption key, and `Permanent`
    where the account's key cannot be opened or was destroyed.
    """
    return _opened(database, objects, keyring, "file", {"account": account, "which": file})


def open_statement(
    database: Database, objects: ObjectStore, keyring: Keyring, *, account: str, statement: UUID
) -> Opened:
    """The PDF of a statement as it was sent. Raises as `open_file` does, also where it was not made yet."""
    return _opened(database, objects, keyring, "statement with a document", {"account": account, "which": statement})


def open_invoice(database: Database, objects: ObjectStore, keyring: Keyring, *, account: str, number: str) -> Opened:
    """The PDF of an invoice or credit note as it was sent. Raises as `open_statement` does."""
    return _opened(database, objects, keyring, "invoice with a document", {"account": account, "which": number})


def _opened(
    database: Database, objects: ObjectStore, keyring: Keyring, called: str, asked: dict[str, UUID | str]
) -> Opened:
    with database.transaction() as session:
        row: Row[Any] | None = session.execute(_ASKED[called], asked).one_or_none()
        if row is None:
            raise ValueError(f"the account has no such {called}")
        keys = object_keys(session, [row.account_id])
    identity = keys.identity(row.account_id, keyring)
    return Opened(row.name, row.media_type, row.size, row.sha256, row.key, objects, identity)
