"""What a customer submits: JSON records, and files whose rows and objects agree whatever happens (P2.1c)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models.base.unit_of_work import Database
from tasks.client import files as submitted_files
from tasks.client.files import discard_file, store_file, sweep
from tasks.client.records import discard_record, save_record
from tasks.customers import file_sweep
from tasks.failures import Permanent, Transient, Unavailable
from tasks.ports.context import Ports
from tasks.storage.text import as_json
from tests.support.rows import vault
from tests.support.rows.company import an_account
from tests.support.rows.raw_objects import put_raw
from workers.adapters.objects import parts
from workers.adapters.objects.s3 import S3ObjectStore

NOW = timedelta(0)


@pytest.fixture(autouse=True)
def acme(database: Database) -> UUID:
    with database.transaction() as session:
        an_account(session, ref="leaving", status="frozen")
        return an_account(session, ref="acme").id


def files(database: Database) -> list[Any]:
    with database.connection() as connection:
        return list(connection.execute(text("SELECT * FROM tenure.submitted_files ORDER BY created_at, id")))


def bucket(ports: Ports, prefix: str) -> dict[str, int]:
    """Keys under the prefix, with versions and delete markers and unfinished uploads counted."""
    assert isinstance(ports.objects, S3ObjectStore)
    client, name = ports.objects.client, ports.objects._settings.s3_bucket
    found: dict[str, int] = {}
    versions = client.list_object_versions(Bucket=name, Prefix=prefix)
    uploads = client.list_multipart_uploads(Bucket=name, Prefix=prefix)
    for each in [*versions.get("Versions", ()), *versions.get("DeleteMarkers", ()), *uploads.get("Uploads", ())]:
        found[each["Key"]] = found.get(each["Key"], 0) + 1
    return found


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_a_record_is_saved_replaced_and_discarded(database: Database) -> None:
    with database.connection() as connection:
        first = save_record(connection, account="acme", kind="note", ref="1", content={"text": "a"})
        assert save_record(connection, account="acme", kind="note", ref="1", content=["b", None, 1.5]) == first
        row = connection.execute(text("SELECT * FROM tenure.submitted_records")).one()
        assert (row.content, row.kind, row.external_ref) == (["b", None, 1.5], "note", "1")
        for account in ("leaving", "nobody"):
            with pytest.raises(ValueError, match="not known, or no longer active"):
                save_record(connection, account=account, kind="note", ref="1", content={})
        assert not discard_record(connection, account="leaving", kind="note", ref="1")
        assert discard_record(connection, account="acme", kind="note", ref="1")
        assert not discard_record(connection, account="acme", kind="note", ref="1")


@settings(max_examples=200)
@given(JSON | st.text() | st.floats() | st.lists(st.text()))
def test_what_is_json_is_written_and_all_else_refused(value: object) -> None:
    try:
        written = as_json(value)
    except ValueError:
        assert any(mark in repr(value) for mark in ("nan", "inf", "\\x00", "\\ud"))
    else:
        assert json.loads(written) == value


@pytest.mark.parametrize("size", [0, 1, parts.FIRST - 1, parts.FIRST, parts.FIRST * 2 + 17])
def test_a_file_is_a_row_and_an_object(database: Database, ports: Ports, acme: UUID, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    stored = store_file(
        database,
        ports.objects,
        ports.keyring,
        account="acme",
        name="../Plan ∂.pdf",
        media_type="text/plain; charset=utf-8",
        content=io.BytesIO(content),
    )
    row = files(database)[0]
    assert (row.state, row.size, row.sha256) == ("stored", size, hashlib.sha256(content).digest())
    assert (row.id, row.object_key, row.size, row.sha256) == (stored.id, stored.object_key, stored.size, stored.sha256)
    assert row.object_key == f"files/{acme}/{row.id}"
    assert row.name == "../Plan ∂.pdf"
    assert vault.content(ports, stored.object_key) == content
    assert bucket(ports, f"files/{acme}/") == {stored.object_key: 1}


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"account": "nobody"}, "not known, or no longer active"),
    ({"account": "leaving"}, "not known, or no longer active"),
    ({"name": ""}, "1 to 255 characters"),
    ({"name": "x" * 256}, "1 to 255 characters"),
    ({"name": "a\0b"}, "none of them NUL"),
    ({"media_type": "text/plain\r\nX-Evil: 1"}, "media type"),
]


def test_bad_input_is_a_sentence_and_leaves_nothing(database: Database, ports: Ports) -> None:
    for values, said in UNFIT:
        with pytest.raises(ValueError, match=said):
            store_file(
                database, ports.objects, ports.keyring, **{"account": "acme", "name": "a", "content": [b"x"], **values}
            )
    assert files(database) == []


def breaking(error: BaseException) -> Iterator[bytes]:
    yield b"x" * (parts.FIRST + 1)
    raise error


@pytest.mark.parametrize("error", [ConnectionResetError("the browser left"), KeyboardInterrupt()])
def test_a_source_that_breaks_leaves_nothing(
    database: Database, ports: Ports, acme: UUID, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=breaking(error))
    assert files(database) == []
    assert bucket(ports, f"files/{acme}/") == {}


def test_an_object_store_that_is_away_is_said_so_and_the_sweep_tidies_up(
    database: Database, ports: Ports, acme: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unavailable("The object store did not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(ports.objects, "upload", away)
        patched.setattr(ports.objects, "erase", away)
        with pytest.raises(Unavailable):
            store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
    assert [row.state for row in files(database)] == ["discarded"]
    assert file_sweep.sweep(ports) == 1
    assert files(database) == []


def test_an_account_that_is_frozen_meanwhile_gets_no_file(database: Database, ports: Ports, acme: UUID) -> None:
    def content() -> Iterator[bytes]:
        yield b"x"
        with database.connection() as connection:
            connection.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'acme'"))

    with pytest.raises(Permanent, match="frozen"):
        store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=content())
    assert bucket(ports, f"files/{acme}/") == {}
    # Nothing is written for it, and nothing removed: the row was exported, and the purge has to find it (T11).
    assert [row.state for row in files(database)] == ["uploading"]
    assert sweep(database, ports.objects, after=NOW) == 0
    assert [row.state for row in files(database)] == ["uploading"]


def test_an_upload_that_the_sweep_overtook_cannot_complete(database: Database, ports: Ports, acme: UUID) -> None:
    """A process that slept through the day: whatever it still does, nothing of it stays."""

    def content() -> Iterator[bytes]:
        yield b"x" * (parts.FIRST + 1)
        assert len(bucket(ports, f"files/{acme}/")) == 1
        assert sweep(database, ports.objects, after=NOW) == 1
        assert bucket(ports, f"files/{acme}/") == {}
        yield b"y" * parts.FIRST

    with pytest.raises(Transient, match="ended by another process"):
        store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=content())
    assert files(database) == []
    assert bucket(ports, f"files/{acme}/") == {}


def test_an_upload_that_takes_too_long_is_given_up(
    database: Database, ports: Ports, acme: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitted_files, "LONGEST_UPLOAD", timedelta(seconds=-1))
    with pytest.raises(Permanent, match="given up"):
        store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
    assert files(database) == []
    assert bucket(ports, f"files/{acme}/") == {}


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_answer_to_the_commit_is_settled_by_the_row(
    database: Database, ports: Ports, acme: UUID, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    settle = submitted_files._settle

    def cut(database: Database, stored: submitted_files.Stored) -> bool:
        if committed:
            settle(database, stored)
        raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(submitted_files, "_settle", cut)
    if committed:
        stored = store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
        assert [(row.state, row.id) for row in files(database)] == [("stored", stored.id)]
        assert vault.content(ports, stored.object_key) == b"x"
    else:
        with pytest.raises(OperationalError):
            store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
        assert files(database) == []
        assert bucket(ports, f"files/{acme}/") == {}


def test_a_discarded_file_goes_with_all_its_versions_and_its_neighbours_stay(
    database: Database, ports: Ports, acme: UUID, settings: Any
) -> None:
    assert isinstance(ports.objects, S3ObjectStore)
    own = S3ObjectStore(replace_bucket(settings, f"versioned-{uuid4().hex[:8]}"))
    name = own._settings.s3_bucket
    own.client.create_bucket(Bucket=name)
    own.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    ports = replace(ports, objects=own)
    one, other = (
        store_file(database, own, ports.keyring, account="acme", name=name, content=[name.encode()])
        for name in ("one", "other")
    )
    put_raw(own, one.object_key, b"written over")
    own.client.delete_object(Bucket=name, Key=one.object_key)
    put_raw(own, one.object_key + "0", b"another's")
    own.client.create_multipart_upload(Bucket=name, Key=one.object_key)
    own.client.create_multipart_upload(Bucket=name, Key=one.object_key + "0")
    assert bucket(ports, "files/") == {one.object_key: 4, one.object_key + "0": 2, other.object_key: 1}

    with database.connection() as connection:
        assert not discard_file(connection, account="leaving", file=one.id)
        assert discard_file(connection, account="acme", file=one.id)
        assert not discard_file(connection, account="acme", file=one.id)
    assert file_sweep.sweep(ports) == 1
    assert [row.id for row in files(database)] == [other.id]
    assert bucket(ports, "files/") == {one.object_key + "0": 2, other.object_key: 1}
    assert file_sweep.sweep(ports) == 0


def replace_bucket(settings: Any, name: str) -> Any:
    return msgspec.structs.replace(settings, s3_bucket=name)
