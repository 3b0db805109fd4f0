"""The ledger of erasures: what a restored database must not know any more (T26).

Before the first row of an account is deleted, a signed note of it is put into the object store, outside every backup of
the database: `erasures/TERMINATION.json`. It has the termination's row and the tombstone's ref, and nothing by which
anybody is known. A database that does not know an erasure of the ledger was restored from a backup from before it:
workers do not start on it until `tenure purge replay` has erased the same data again (`tasks/termination/replay.py`).

The note is written when the termination is `purging`, from which nobody cancels: what is in the ledger is to be erased,
and no other. It is signed with the key of the certificates, so that whoever may write to the bucket cannot have a
customer erased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.data_map.places import Folder, FolderPlace
from models.termination.certificate import Certificate, ErasureReplay
from models.termination.termination import Termination
from tasks.certificates import publishing
from tasks.crypto import canonical_json
from tasks.crypto.signing import PublicKey
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.ports.objects import ObjectStore

FOLDER: Final = Folder.ERASURES.prefix
FORMAT: Final = "tenure-erasure/1"
CONTENT_TYPE: Final = "application/json"
#: The columns of a termination that its note has, so that its row can be made again.
COLUMNS: Final = (
    "requested_by", "requested_at", "ends_at", "cancel_until", "frozen_at", "archive_key", "archive_sha256",
    "manifest_sha256", "archive_size", "content_size", "exported_rows", "exported_objects", "map_sha256", "sealed_at",
    "available_until", "downloaded_at", "delivered_at", "delivered_by", "purge_began_at",
)  # fmt: skip
#: Instants as text with their microseconds, and bytes in hexadecimal: PostgreSQL reads back what it wrote.
_ROW = text(f"""
    SELECT termination.account_id, termination.stage, termination.stage_before,
           tenure.purged_ref(account.ref) AS tombstone, account.currency,
           jsonb_build_object({", ".join(f"'{each}', termination.{each}" for each in COLUMNS)}) AS columns
      FROM tenure.terminations AS termination JOIN tenure.accounts AS account ON account.id = account_id
     WHERE termination.id = :id""")
#: In which a termination's data are being erased, or were.
ERASING: Final = ("purging", "verifying", "certified")


@dataclass(frozen=True, slots=True)
class Erasure:
    """A note of the ledger."""

    termination_id: UUID
    account_id: UUID
    #: The ref of what stays of the account.
    tombstone: str
    currency: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unknown:
    """What the object store tells and the database does not know."""

    erasures: Sequence[UUID]
    #: Numbers of certificates.
    certificates: Sequence[int]

    def __bool__(self) -> bool:
        return bool(self.erasures or self.certificates)

    def __str__(self) -> str:
        told = [
            f"{len(each)} {name}{'s' if len(each) > 1 else ''}"
            for each, name in ((self.erasures, "erasure"), (self.certificates, "certificate"))
            if each
        ]
        return (
            f"This database does not know {' and '.join(told)} of which the object store tells: it was restored from a "
            "backup, and may hold data that were erased. Run tenure purge replay before anything works on it."
        )


def place(termination_id: UUID) -> FolderPlace:
    return FolderPlace(Folder.ERASURES, f"{termination_id}.json")


def key(termination_id: UUID) -> str:
    return place(termination_id).key


def note(ports: Ports, termination_id: UUID) -> None:
    """Note an erasure that is about to begin; harmless where it is noted. Raises Unavailable or Permanent otherwise.

    What lies under its name and is not to be believed, since somebody else wrote it, is replaced.

    To be called when `purging` is committed, and before anything is deleted.
    """
    with ports.database.snapshot() as session:
        row = session.execute(_ROW, {"id": termination_id}).one()
    if (row.stage_before or row.stage) not in ERASING:
        raise Permanent(f"The termination is {row.stage}, and an erasure is noted when it is purging.")
    signing = ports.signer.current
    if _is_noted(ports, termination_id):
        return
    try:
        body = canonical_json.encode(
            {
                "format": FORMAT,
                "termination": str(termination_id),
                "account": str(row.account_id),
                "tombstone": row.tombstone,
                "currency": row.currency,
                "columns": row.columns,
                "key": signing.public.name,
            }
        )
    except ValueError as error:
        raise Permanent(f"The erasure cannot be noted: {error}.") from None
    content = {"erasure": canonical_json.decode(body), "signature": signing.sign(body).hex()}
    ports.objects.put(place(termination_id), canonical_json.encode(content) + b"\n", content_type=CONTENT_TYPE)
    failpoint("terminations.purge", "after_note")


def _is_noted(ports: Ports, termination_id: UUID) -> bool:
    if all(stored.key != key(termination_id) for stored in ports.objects.list(key(termination_id))):
        return False
    try:
        read(ports.objects, termination_id, {each.public.name: each.public for each in ports.signer.keys})
    except Permanent:
        return False
    return True


def read(objects: ObjectStore, termination_id: UUID, keys: Mapping[str, PublicKey]) -> Erasure:
    """The note of a termination. Raises Permanent where it is not one that was signed with one of `keys`."""
    name = key(termination_id)
    try:
        content = canonical_json.decode(objects.get(name))
        said = content["erasure"]
        signer = keys.get(said["key"])
        signed = signer is not None and signer.signed(canonical_json.encode(said), bytes.fromhex(content["signature"]))
        found = Erasure(
            UUID(said["termination"]), UUID(said["account"]), str(said["tombstone"]), str(said["currency"]),
            {column: said["columns"].get(column) for column in COLUMNS},
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Permanent(f"{name} in the object store is no note of an erasure: look who wrote it.") from None
    if not signed or found.termination_id != termination_id or said["format"] != FORMAT:
        raise Permanent(
            f"{name} in the object store is not signed with a key of ours, so nothing is erased for it: look who wrote "
            "it, or add the key that signed it to TENURE_CERTIFICATE_KEYS."
        )
    return found


def unknown(database: Database, objects: ObjectStore) -> Unknown:
    """What the database does not know of the ledger. Raises Unavailable, or DBAPIError where PostgreSQL is away.

    Lists keys and reads none: a request for a thousand of them.
    """
    noted = {found for stored in objects.list(FOLDER) if (found := _termination(stored.key))}
    copied = {number for stored in objects.list(publishing.FOLDER) if (number := publishing.number(stored.key))}
    with database.snapshot() as session:
        known = set(
            session.scalars(
                select(Termination.id).where(Termination.stage.in_(ERASING) | Termination.stage_before.in_(ERASING[:2]))
            )
        )
        issued = set(session.scalars(select(Certificate.number)))
    return Unknown(sorted(noted - known), sorted(copied - issued))


def is_replay(session: Session, termination_id: UUID) -> bool:
    """Whether the erasure is one that a restored database was taught again: it may hold other rows than the record."""
    return session.get(ErasureReplay, termination_id) is not None


def _termination(name: str) -> UUID | None:
    try:
        return UUID(name.removeprefix(FOLDER).removesuffix(".json"))
    except ValueError:
        return None
