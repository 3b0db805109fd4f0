"""Copies of certificates in the object store, where no restored backup of the database makes them undone (T25, T26).

Woken by the relay when one is issued. The copy of number 19 is `certificates/00000019.json`, a file of that one
certificate. The same one again is the same copy; another one under its number means that two installations, or a
database that was restored and not taught again, add to the same chain, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.data_map.places import Folder, FolderPlace
from models.termination.certificate import Certificate, CertificateCopy
from tasks.certificates.chain import Signed, document
from tasks.crypto import canonical_json
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.ports.objects import ObjectStore

FOLDER: Final = Folder.CERTIFICATES.prefix
CONTENT_TYPE: Final = "application/json"


def place(number: int) -> FolderPlace:
    return FolderPlace(Folder.CERTIFICATES, f"{number:08}.json")


def key(number: int) -> str:
    return place(number).key


def number(name: str) -> int | None:
    """The certificate's number, of the key of its copy."""
    digits = name.removeprefix(FOLDER).removesuffix(".json")
    return int(digits) if digits.isdecimal() else None


def chain(session: Session) -> list[Signed]:
    """All that were issued, from the first on."""
    rows = session.execute(select(Certificate.body, Certificate.signature).order_by(Certificate.number))
    return [Signed.of(row.body, row.signature) for row in rows]


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, Signed]:
    rows = session.execute(
        select(CertificateCopy.id, Certificate.body, Certificate.signature)
        .join(Certificate, Certificate.number == CertificateCopy.number)
        .where(CertificateCopy.id.in_(ids))
    )
    return {row.id: Signed.of(row.body, row.signature) for row in rows}


def copy(certificate: Signed, claimed: ClaimedRow) -> None:
    objects = claimed.ports.objects
    content = document([certificate], whole=False)
    for stored in objects.list(key(certificate.number)):
        if stored.key == key(certificate.number) and objects.get(stored.key) != content:
            raise Permanent(
                f"The object store has another certificate of the number {certificate.number}: two databases add to "
                "one chain. Find out which is the right one (tenure certificate verify) before anything else."
            )
    objects.put(place(certificate.number), content, content_type=CONTENT_TYPE)
    failpoint("certificates.publish", "after_put")


def record(_session: Session, _results: Mapping[UUID, None], _ports: Ports) -> None:
    """Nothing but that it is done."""


def copies(objects: ObjectStore) -> Iterator[Signed]:
    """All copies, by their numbers. Raises Unavailable, or Permanent for one that cannot be read."""
    for stored in objects.list(FOLDER):
        try:
            (entry,) = canonical_json.decode(objects.get(stored.key))["certificates"]
            yield Signed.of(canonical_json.encode(entry["certificate"]), bytes.fromhex(entry["signature"]))
        except (ValueError, TypeError, KeyError):
            raise Permanent(
                f"{stored.key} in the object store is no copy of a certificate: look who wrote it."
            ) from None


PUBLISH: Job[Any, None] = Job(
    task="certificates.publish",
    table=CertificateCopy,
    load=load,
    act=copy,
    record=record,
    done="published",
    retries=DAYS,
)


publish = tick(PUBLISH)
