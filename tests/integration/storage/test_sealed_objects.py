"""What is stored for accounts lies sealed, each account's by a key of its own, and is opened where it is read (T27)."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from models.mail.email_message import EmailMessage
from models.work import row as work
from tasks.billing import invoices, statements
from tasks.billing.statement_plan import plan_batch
from tasks.client.documents import open_file, open_invoice, open_statement
from tasks.client.files import store_file
from tasks.crypto.keyring import Keyring, destroy
from tasks.engine.drain import drain
from tasks.failures import Permanent, Unavailable
from tasks.mail import send
from tasks.ports.context import Ports
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from tests.integration.conftest import Run
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.rows.marked import MARKER, a_marked_customer
from tests.support.rows.raw_objects import put_raw

pytestmark = pytest.mark.clock("2026-11-22 12:00")

SEALED = b"age-encryption.org/v1\n"


def another() -> Keyring:
    return Keyring(base64.b64encode(os.urandom(32)).decode())


@pytest.fixture
def acme(database: Database, ports: Ports) -> UUID:
    """An account whose statement is planned."""
    with database.transaction() as session:
        account = an_account(session, ref="acme", period_start=date(2026, 9, 1))
        a_contact(session, account)
        an_entry(session, account, 100, occurred_at=datetime(2026, 9, 3, tzinfo=UTC))
        plan_batch(session, ports.letterhead.company)
        return account.id


def statement(database: Database) -> Any:
    with database.connection() as connection:
        return connection.execute(
            text("SELECT id, state, attempts, last_error, document_key, document_sha256 FROM tenure.statements")
        ).one()


def due_now(database: Database, state: str = "pending") -> None:
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.statements SET state = 'pending', due_at = now() WHERE state = :state"),
            {"state": state},
        )


def retry_mail(database: Database) -> str:
    """Why the one mail failed; as `tenure work retry` does it."""
    with database.transaction() as session:
        mail = session.scalars(select(EmailMessage)).one()
        why = mail.last_error
        work.retry(session.connection(), EmailMessage, [mail.id])
    return why or ""


def raw(ports: Ports, account: UUID) -> dict[str, bytes]:
    prefixes = ("files", "statements", "invoices")
    listed = [each.key for prefix in prefixes for each in ports.objects.list(f"{prefix}/{account}/")]
    return {key: ports.objects.get(key) for key in listed}


def test_no_object_of_a_customer_holds_a_word_in_the_clear(database: Database, ports: Ports) -> None:
    customer = a_marked_customer(ports, "acme")
    drain(invoices.RENDER, ports)
    found = raw(ports, customer.id)
    assert {key.split("/")[0] for key in found} == {"files", "statements", "invoices"}
    for key, body in found.items():
        assert body.startswith(SEALED), key
        assert MARKER.encode() not in body
        assert b"%PDF" not in body
        content = vault.content(ports, key)
        assert MARKER.encode() in content or content.startswith(b"%PDF-")


def test_made_again_it_is_sealed_anew_and_holds_the_same(database: Database, ports: Ports, acme: UUID) -> None:
    drain(statements.RENDER, ports)
    made = statement(database)
    first = ports.objects.get(made.document_key)
    due_now(database, "done")
    drain(statements.RENDER, ports)
    second = ports.objects.get(made.document_key)
    assert first != second
    assert len(first) == len(second)
    assert hashlib.sha256(vault.content(ports, made.document_key)).digest() == made.document_sha256


def test_where_no_key_is_set_nothing_is_stored_and_the_work_waits(database: Database, ports: Ports, acme: UUID) -> None:
    assert drain(statements.RENDER, replace(ports, keyring=Keyring())) == {"rendered": 0, "handed_back": 1}
    waiting = statement(database)
    assert (waiting.state, waiting.attempts, waiting.document_key) == ("pending", 0, None)
    assert "TENURE_KEY_ENCRYPTION_KEYS is not set" in waiting.last_error
    with pytest.raises(Unavailable, match="is not set"):
        store_file(database, ports.objects, Keyring(), account="acme", name="a", content=[b"x"])
    assert raw(ports, acme) == {}
    due_now(database)
    assert drain(statements.RENDER, ports) == {"rendered": 1}


def test_with_a_wrong_key_nothing_is_stored_and_nothing_is_sent(database: Database, ports: Ports, acme: UUID) -> None:
    store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
    before = raw(ports, acme)
    wrong = replace(ports, keyring=another())
    assert drain(statements.RENDER, wrong) == {"rendered": 0, "failed": 1}
    parked = statement(database)
    assert parked.state == "failed"
    assert "add it there, then retry" in parked.last_error
    with pytest.raises(Permanent, match="add it there"):
        store_file(database, ports.objects, wrong.keyring, account="acme", name="b", content=[b"x"])
    assert raw(ports, acme) == before

    due_now(database, "failed")
    assert drain(statements.RENDER, ports) == {"rendered": 1}
    assert drain(send.SEND, wrong) == {"sent": 0, "failed": 1}
    assert "add it there, then retry" in retry_mail(database)
    assert drain(send.SEND, ports) == {"sent": 1}


def test_an_object_that_is_not_sealed_is_not_read(database: Database, ports: Ports, acme: UUID) -> None:
    drain(statements.RENDER, ports)
    key = statement(database).document_key
    for body, said in ((b"%PDF-1.7 in the clear", "is not sealed"), (ports.objects.get(key)[:-1], "was changed")):
        put_raw(ports.objects, key, body)
        with pytest.raises(Permanent, match=said):
            vault.content(ports, key)
        assert drain(send.SEND, ports) == {"sent": 0, "failed": 1}
        assert said in retry_mail(database)


def test_another_accounts_key_does_not_open_it(database: Database, ports: Ports, acme: UUID) -> None:
    with database.transaction() as session:
        other = an_account(session, ref="other").id
    stored = store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
    store_file(database, ports.objects, ports.keyring, account="other", name="a", content=[b"x"])
    with pytest.raises(Permanent, match="does not open this file"):
        sealed_objects.get(ports.objects, stored.object_key, vault.identity(database, ports.keyring, other))


def test_workers_that_make_keys_at_once_make_one_for_each_account(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        accounts = [an_account(session, ref=f"C-{number}").id for number in range(40)]
    at_once = Barrier(4)
    seen: list[dict[UUID, bytes]] = []

    def make(mine: list[UUID]) -> None:
        with database.transaction() as session:
            keys = object_keys(session, mine)
        at_once.wait()
        seen.append({each: keys.recipient(each, database, ports.keyring).public for each in mine})

    # Each lacks some, and they meet the others' from both sides.
    mine = [accounts[:30], accounts[10:], accounts[::-1], accounts[5:35]]
    threads = [Thread(target=make, args=(each,)) for each in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.connection() as connection:
        rows = connection.execute(text("SELECT account_id, recipient FROM tenure.account_keys")).all()
    made = {row.account_id: row.recipient for row in rows}
    assert len(rows) == len(accounts)
    assert len(seen) == len(mine)
    assert all(made[account] == recipient for each in seen for account, recipient in each.items())


def test_an_account_that_is_no_more_gets_no_key(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme").id
        late = object_keys(session, [account])
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen'"))
    with pytest.raises(Permanent, match="not active and has no key"):
        late.recipient(account, database, ports.keyring)
    made = ports.keyring.make(account)._asdict()
    insert = text("""
        INSERT INTO tenure.account_keys (id, account_id, purpose, recipient, wrapped_secret, wrapped_by)
        VALUES (:id, :account_id, 'objects', :recipient, :wrapped_secret, :wrapped_by)""")
    with pytest.raises(DBAPIError, match="nothing is sealed for it any more"), database.connection() as connection:
        connection.execute(insert, made)


def test_a_freeze_waits_for_a_key_that_is_being_made(database: Database, ports: Ports) -> None:
    """And whoever comes after the freeze, makes none: the account's row puts them in order."""
    with database.transaction() as session:
        account = an_account(session, ref="acme").id
        late = object_keys(session, [account])
    refused: list[Exception] = []

    def make() -> None:
        try:
            late.recipient(account, database, ports.keyring)
        except Permanent as refusal:
            refused.append(refusal)

    thread = Thread(target=make)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen'"))
        connection.execute(text("SELECT FROM tenure.accounts FOR UPDATE"))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join()
    assert len(refused) == 1
    with database.connection() as connection:
        assert connection.execute(text("SELECT count(*) FROM tenure.account_keys")).scalar_one() == 0


def test_a_key_that_was_destroyed_stays_so(database: Database, ports: Ports, acme: UUID) -> None:
    stored = store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=[b"x"])
    with database.connection() as connection:
        wrapped = connection.execute(text("SELECT wrapped_secret FROM tenure.account_keys")).scalar_one()
    with database.transaction() as session:
        assert destroy(session, acme, KeyPurpose.OBJECTS)
    for again in ("wrapped_secret = :wrapped, destroyed_at = NULL", "recipient = sha256('')"):
        with pytest.raises(DBAPIError, match="was destroyed"), database.connection() as connection:
            connection.execute(text(f"UPDATE tenure.account_keys SET {again}"), {"wrapped": wrapped})
    with pytest.raises(Permanent, match="was destroyed"):
        vault.content(ports, stored.object_key)
    with pytest.raises(Permanent, match="was destroyed"):
        store_file(database, ports.objects, ports.keyring, account="acme", name="b", content=[b"x"])


@pytest.mark.parametrize("size", [0, 1, 65_536, 3 << 20])
def test_a_file_is_read_whole_and_in_parts(database: Database, ports: Ports, acme: UUID, size: int) -> None:
    content = os.urandom(size)
    stored = store_file(
        database, ports.objects, ports.keyring, account="acme", name="a", media_type="image/png", content=[content]
    )
    file = open_file(database, ports.objects, ports.keyring, account="acme", file=stored.id)
    assert (file.name, file.media_type, file.size) == ("a", "image/png", size)
    assert b"".join(file.content()) == content
    for start, stop in ((0, 1), (size // 2, size // 2 + 100_000), (size - 1, None), (size, None)):
        assert b"".join(file.content(max(0, start), stop)) == content[max(0, start) : stop]


def test_documents_are_read_as_they_were_sent(database: Database, ports: Ports, acme: UUID) -> None:
    a_marked_customer(ports, "marked")
    for job in (statements.RENDER, invoices.RENDER):
        drain(job, ports)
    with database.connection() as connection:
        found = connection.execute(text("SELECT id FROM tenure.statements WHERE account_id = :a"), {"a": acme})
        made = found.scalar_one()
        number = connection.execute(text("SELECT number FROM tenure.invoices")).scalar_one()
    read = [
        open_statement(database, ports.objects, ports.keyring, account="acme", statement=made),
        open_invoice(database, ports.objects, ports.keyring, account="marked", number=number),
    ]
    for each in read:
        body = b"".join(each.content())
        assert body.startswith(b"%PDF-")
        assert (len(body), hashlib.sha256(body).digest()) == (each.size, each.sha256)
    with pytest.raises(ValueError, match="no such statement"):
        open_statement(database, ports.objects, ports.keyring, account="marked", statement=made)
    # By the ref that the account has now, whatever the document calls it.
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET ref = 'acme-2' WHERE id = :a"), {"a": acme})
    again = open_statement(database, ports.objects, ports.keyring, account="acme-2", statement=made)
    assert (again.sha256, again.name[:5]) == (read[0].sha256, "acme-")
    with pytest.raises(ValueError, match="no such statement"):
        open_statement(database, ports.objects, ports.keyring, account="acme", statement=made)
    with pytest.raises(ValueError, match="no such invoice"):
        open_invoice(database, ports.objects, ports.keyring, account="acme", number=number)


def test_a_large_file_is_stored_in_flat_memory(database: Database, ports: Ports, acme: UUID) -> None:
    def content() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    stored = store_file(database, ports.objects, ports.keyring, account="acme", name="a", content=content())
    file = open_file(database, ports.objects, ports.keyring, account="acme", file=stored.id)
    longest = 0
    for piece in file.content():
        longest = max(longest, len(piece))
    assert stored.size == 64 << 20
    assert longest <= 64 * 1024


def test_an_operator_gets_a_document_as_it_was_sent(
    database: Database, ports: Ports, acme: UUID, tenure: Run, tmp_path: Path
) -> None:
    a_marked_customer(ports, "marked")
    for job in (statements.RENDER, invoices.RENDER):
        drain(job, ports)
    with database.connection() as connection:
        which = text("SELECT id FROM tenure.statements WHERE account_id = :acme")
        made = connection.execute(which, {"acme": acme}).scalar_one()
        number = connection.execute(text("SELECT number FROM tenure.invoices")).scalar_one()
    for name, command in (("s", ("statements", "render", str(made), "--sent")), ("i", ("invoices", "show", number))):
        told = tenure(*command, "--out", str(tmp_path / name))
        assert (told.returncode, told.stderr) == (0, "")
        assert "as it was sent" in told.stdout
        assert (tmp_path / name).read_bytes().startswith(b"%PDF-")
    ports.objects.erase(f"statements/{acme}/{made}.pdf")
    told = tenure("statements", "render", str(made), "--sent", "--out", str(tmp_path / "gone"))
    assert told.returncode != 0
    assert "not in the object store" in told.stderr
    assert not (tmp_path / "gone").exists()
