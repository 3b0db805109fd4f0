"""What is erased is noted outside the database, signed, before it goes (T26)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys
from models.termination.certificate import ErasureReplay
from tasks.certificates import erasure_notes
from tasks.crypto.signing import PublicKey, Signer
from tasks.engine.drain import drain
from tasks.failures import Permanent, Unavailable
from tasks.ports.context import Ports
from tasks.termination import advancing
from tests.integration.conftest import Run
from tests.support.rows.certifying import a_setting, a_termination
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.purging import a_delivered_termination
from tests.support.rows.raw_objects import put_raw
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import Settings


@pytest.fixture
def termination(database: Database) -> UUID:
    with database.transaction() as session:
        return a_termination(session).id


def keys(ports: Ports) -> Mapping[str, PublicKey]:
    public = ports.signer.current.public
    return {public.name: public}


def forget(database: Database) -> None:
    """As a backup from before would have it."""
    with database.connection() as connection:
        connection.execute(text("DELETE FROM tenure.termination_steps"))
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text("DELETE FROM tenure.terminations"))
        connection.execute(text("ALTER TABLE tenure.terminations ENABLE TRIGGER guard"))


def test_a_note_has_the_row_of_the_termination_and_nothing_personal(ports: Ports, termination: UUID) -> None:
    erasure_notes.note(ports, termination)
    found = erasure_notes.read(ports.objects, termination, keys(ports))
    with ports.database.connection() as connection:
        row = connection.execute(
            text("""
                SELECT account_id, sealed_at, name, ref, encode(archive_sha256, 'hex') AS hash
                  FROM tenure.terminations JOIN tenure.accounts ON accounts.id = account_id""")
        ).one()
        back = connection.execute(
            text("SELECT CAST(:at AS timestamptz), encode(CAST(:hash AS bytea), 'hex')"),
            {"at": found.columns["sealed_at"], "hash": found.columns["archive_sha256"]},
        ).one()
    assert (found.account_id, *back) == (row.account_id, row.sealed_at, row.hash)
    written = ports.objects.get(erasure_notes.key(termination)).decode()
    assert row.name not in written
    assert f'"{row.ref}"' not in written


def test_the_same_note_again_changes_nothing(ports: Ports, termination: UUID) -> None:
    erasure_notes.note(ports, termination)
    before = ports.objects.get(erasure_notes.key(termination))
    erasure_notes.note(ports, termination)
    assert ports.objects.get(erasure_notes.key(termination)) == before


@pytest.mark.parametrize("there", [b"", b"{}", "another key's"])
def test_what_lies_under_a_notes_name_and_is_not_ours_is_replaced(
    ports: Ports, termination: UUID, there: bytes | str
) -> None:
    """It would be taken for the note, and nothing would be erased again after a restore."""
    if isinstance(there, bytes):
        put_raw(ports.objects, erasure_notes.key(termination), there)
    else:
        erasure_notes.note(replace(ports, signer=Signer(a_setting(7))), termination)
    erasure_notes.note(ports, termination)
    assert erasure_notes.read(ports.objects, termination, keys(ports)).termination_id == termination


def test_what_is_not_being_erased_is_not_noted(ports: Ports, termination: UUID) -> None:
    """Until then it may be cancelled, and a customer who stays would be erased after a restore."""
    with ports.database.connection() as connection:
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text("UPDATE tenure.terminations SET stage = 'delivered'"))
    with pytest.raises(Permanent, match="is delivered, and an erasure is noted when it is purging"):
        erasure_notes.note(ports, termination)
    assert list(ports.objects.list(erasure_notes.FOLDER)) == []


def test_without_key_or_store_there_is_no_note(ports: Ports, settings: Settings, termination: UUID) -> None:
    with pytest.raises(Permanent, match="Nothing can be signed"):
        erasure_notes.note(replace(ports, signer=Signer()), termination)
    away = S3ObjectStore(msgspec.structs.replace(settings, s3_endpoint="http://127.0.0.1:1"))
    with pytest.raises(Unavailable):
        erasure_notes.note(replace(ports, objects=away), termination)


@pytest.mark.parametrize("tampered", ["account", "termination", "tombstone", "key", "signature", "all", "half"])
def test_a_note_that_nobody_of_us_signed_erases_nobody(ports: Ports, termination: UUID, tampered: str) -> None:
    erasure_notes.note(ports, termination)
    name = erasure_notes.key(termination)
    content = ports.objects.get(name)
    read = json.loads(content)
    match tampered:
        case "signature":
            read["signature"] = "00" * 64
        case "all":
            forger = Signer(a_setting(9)).current
            read["erasure"]["key"] = forger.public.name
            read["signature"] = forger.sign(json.dumps(read["erasure"]).encode()).hex()
        case "half":
            read = {}
        case field:
            read["erasure"][field] = str(uuid4())
    put_raw(ports.objects, name, json.dumps(read).encode())
    with pytest.raises(Permanent, match=r"^erasures/.* look who wrote it"):
        erasure_notes.read(ports.objects, termination, keys(ports))


def test_a_note_of_another_name_erases_nobody(ports: Ports, termination: UUID) -> None:
    erasure_notes.note(ports, termination)
    other = uuid4()
    put_raw(ports.objects, erasure_notes.key(other), ports.objects.get(erasure_notes.key(termination)))
    with pytest.raises(Permanent):
        erasure_notes.read(ports.objects, other, keys(ports))


def test_a_database_that_does_not_know_an_erasure_is_told(ports: Ports, termination: UUID, tenure: Run) -> None:
    assert "Erasures" not in tenure("doctor").stdout or "all known" in tenure("doctor").stdout
    erasure_notes.note(ports, termination)
    put_raw(ports.objects, "erasures/README", b"not a note")
    assert not erasure_notes.unknown(ports.database, ports.objects)
    assert "1 noted in the object store, all known" in tenure("doctor").stdout
    forget(ports.database)
    unknown = erasure_notes.unknown(ports.database, ports.objects)
    assert unknown.erasures == [termination]
    said = tenure("doctor")
    assert said.returncode == 1
    assert "does not know 1 erasure of which the object store tells" in said.stdout
    assert "tenure purge replay" in said.stdout
    with ports.database.transaction() as session:
        assert not erasure_notes.is_replay(session, termination)
        session.add(ErasureReplay(termination_id=termination, found=True))
        session.flush()
        assert erasure_notes.is_replay(session, termination)


def test_a_database_that_does_not_answer_is_no_answer(ports: Ports) -> None:
    with pytest.raises(DBAPIError):
        erasure_notes.unknown(Database("postgresql://nobody@127.0.0.1:1/none"), ports.objects)


@pytest.fixture
def delivered(ports: Ports) -> UUID:
    """A customer whose purge is due."""
    with ports.database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
    return a_delivered_termination(ports, AccountKeys(account.id, account.ref))


def contacts(database: Database) -> int:
    with database.connection() as connection:
        return int(connection.execute(text("SELECT count(*) FROM tenure.contacts")).scalar_one())


def test_a_purge_notes_before_it_deletes(ports: Ports, delivered: UUID) -> None:
    drain(advancing.PURGE, ports)
    assert contacts(ports.database) == 0
    assert erasure_notes.read(ports.objects, delivered, keys(ports)).termination_id == delivered


def test_what_cannot_be_noted_is_not_deleted(ports: Ports, settings: Settings, delivered: UUID) -> None:
    away = S3ObjectStore(msgspec.structs.replace(settings, s3_endpoint="http://127.0.0.1:1"))
    for broken in (replace(ports, objects=away), replace(ports, signer=Signer())):
        drain(advancing.PURGE, broken)
        assert contacts(ports.database) == 1
    with ports.database.connection() as connection:
        connection.execute(text("UPDATE tenure.termination_steps SET state = 'pending', due_at = now()"))
        connection.execute(
            text("UPDATE tenure.terminations SET stage = stage_before, stage_before = NULL WHERE stage = 'failed'")
        )
    drain(advancing.PURGE, ports)
    assert contacts(ports.database) == 0
