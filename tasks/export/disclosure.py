"""A lawful disclosure: the record that a customer would get, made for a case, and delivered to nobody (P4, T29).

It is made by hand, when two others than the one who asked have approved it. The record goes through the same exporter,
sealed and read back; then it is opened into the file of whoever runs it, and what lay in the object store is erased
with its key: nothing is left that a later purge would have to find. That it was made is noted before the file is
complete, and cannot be taken back.

An account that is frozen, or held, can be disclosed. From the moment its erasure begins it cannot: a record of what is
left would pass for the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.customers.account import Account, AccountStatus
from models.customers.account_key import KeyPurpose
from models.data_map.map import AccountKeys
from models.termination.disclosure import Disclosure, DisclosureEvent
from tasks.crypto import keyring
from tasks.crypto.age import Sealed
from tasks.engine.failpoints import failpoint
from tasks.export.archive import Archive, Export, Occasion, export
from tasks.failures import Failure, Permanent
from tasks.ports.context import Ports

APPROVALS: Final = 2
_ERASING: Final = text("""
    SELECT FROM tenure.terminations
     WHERE account_id = :account AND coalesce(stage_before, stage) IN ('purging', 'verifying', 'certified')""")
README: Final = """\
Record of an account's data, made because a law requires it.

Case: {reference}
Legal basis: {legal_basis}

Each table is a CSV file (RFC 4180, UTF-8). manifest.json says what is in each file, and what is left out and why.
"""


def disclose(ports: Ports, disclosure_id: UUID, person: str) -> Iterator[bytes]:
    """The record as a ZIP, in pieces. Raises Permanent where it is not approved, Unavailable where a server is away."""
    with ports.database.transaction() as session:
        archive = _allowed(session, disclosure_id)
    estate = ports.estate()

    def still_whole() -> None:
        with ports.database.transaction() as session:
            _refuse_erasing(session, archive.account.id)

    try:
        try:
            made = export(
                ports, estate.map, archive, run=uuid4(), databases=estate.databases, before_complete=still_whole
            )
        except Permanent:
            # What is missing may be missing for that reason.
            still_whole()
            raise
        failpoint("disclosure", "after_export")
        with ports.database.transaction() as session:
            identity = ports.keyring.identity(session, archive.account.id, KeyPurpose.EXPORT, archive.id)
            # The database has the last word, and the log has it before anybody has the record.
            _note_made(session, disclosure_id, person, made)
        failpoint("disclosure", "after_note")
        yield from Sealed(partial(ports.objects.read, made.key), made.size, identity).content()
    finally:
        _erase(ports, archive)


def _allowed(session: Session, disclosure_id: UUID) -> Archive:
    asked = session.get(Disclosure, disclosure_id)
    if asked is None:
        raise Permanent("There is no disclosure of this id: tenure disclose list has them.")
    account = session.get_one(Account, asked.account_id)
    events = session.execute(
        select(DisclosureEvent.action, DisclosureEvent.person).where(DisclosureEvent.disclosure_id == disclosure_id)
    ).all()
    approved = {event.person.lower() for event in events if event.action == "approved"}
    if any(event.action == "refused" for event in events):
        raise Permanent("The disclosure was refused: nothing is made for it.")
    if len(approved) < APPROVALS:
        raise Permanent(
            f"The disclosure is approved by {len(approved)}, and two have to approve it who did not ask for it: tenure "
            "disclose approve."
        )
    if account.status == AccountStatus.PURGED:
        raise Permanent("The account's data were erased: there is nothing to disclose.")
    _refuse_erasing(session, account.id)
    readme = README.format(reference=asked.reference, legal_basis=asked.legal_basis)
    # An id of its own for each making, whose key is destroyed with it.
    keys, occasion = AccountKeys(account.id, account.ref), Occasion("disclosure", asked.reference)
    return Archive(uuid4(), keys, readme, occasion, retained=None)


def _refuse_erasing(session: Session, account_id: UUID) -> None:
    """Raises Permanent from the beginning of the account's purge on."""
    if session.execute(_ERASING, {"account": account_id}).first() is not None:
        raise Permanent(
            "The erasure of the account's data has begun, and a part of them is gone: a record of the rest would pass "
            "for the whole, so none is made. A legal hold (tenure hold place) keeps what is left."
        )


def _note_made(session: Session, disclosure_id: UUID, person: str, made: Export) -> None:
    session.execute(
        text("SELECT tenure.note_disclosure(:id, 'made', :person, :manifest)"),
        {"id": disclosure_id, "person": person, "manifest": made.manifest_sha256},
    )


def _erase(ports: Ports, archive: Archive) -> None:
    """What lay in the object store, and its key, which makes every copy of it unreadable."""
    with ports.database.transaction() as session:
        keyring.destroy(session, archive.account.id, KeyPurpose.EXPORT, archive.id)
    # Without its key what is left cannot be read; that it is there must not hide why it failed.
    with suppress(Failure):
        ports.objects.abandon(archive.folder)
        for stored in ports.objects.list(archive.folder):
            ports.objects.erase(stored.key)
