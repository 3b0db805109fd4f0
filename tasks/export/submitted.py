"""Submitted files in an archive: under the names that the customer gave them, whole, and none missing (T12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final
from uuid import UUID

from sqlalchemy import text

from models.base.unit_of_work import Database
from models.customers.submission import SubmittedFile
from tasks.failures import Permanent
from tasks.ports.objects import StoredObject

#: Where `models/customers/submission.py` says that they lie.
(PREFIX,) = SubmittedFile.__data_map__.objects
_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
#: Files looked up in one go.
_BATCH: Final = 1_000


@dataclass(frozen=True, slots=True)
class SubmittedObject:
    """An object and what its row says of it: the customer's name, and the SHA-256 of a content that was stored."""

    stored: StoredObject
    name: str | None
    sha256: str | None

    def check(self, sha256: str) -> None:
        """Raises Permanent where the content is not what the customer submitted."""
        if self.sha256 is not None and sha256 != self.sha256:
            raise Permanent(
                f"The object {self.stored.key} is not the file that was submitted: its SHA-256 is another. Restore it, "
                "or discard the file, then retry."
            )


def submitted(database: Database, account: UUID, objects: Iterable[StoredObject]) -> Iterator[SubmittedObject]:
    """The objects with what their rows say. An object without a row is the customer's all the same.

    Raises Permanent in the end, where a file that is stored by its row was not among the objects.
    """
    found, left = 0, iter(objects)
    while batch := list(islice(left, _BATCH)):
        with database.connection() as connection:
            rows = connection.execute(
                text("""
                    SELECT object_key, name, encode(sha256, 'hex') AS sha256 FROM tenure.submitted_files
                     WHERE account_id = :account AND state = 'stored' AND id = ANY (CAST(:ids AS uuid[]))"""),
                {"account": account, "ids": [each.key[-36:] for each in batch if _ID.search(each.key)]},
            )
            known = {row.object_key: row for row in rows}
        found += len(known)
        for each in batch:
            row = known.get(each.key)
            yield SubmittedObject(each, row.name if row else None, row.sha256 if row else None)
    with database.connection() as connection:
        stored = connection.execute(
            text("SELECT count(*) FROM tenure.submitted_files WHERE account_id = :account AND state = 'stored'"),
            {"account": account},
        ).scalar_one()
    if stored != found:
        raise Permanent(
            f"Of {stored:,} submitted files, {stored - found:,} are not in the object store: restore them, or discard "
            "them, then retry."
        )
