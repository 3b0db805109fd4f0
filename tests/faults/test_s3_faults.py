"""An object store that answers 500, is slow, or cuts the connection (W18): every statement once all the same."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from sqlalchemy import select, text

from models.base.unit_of_work import Database
from models.billing.statement import Statement
from models.mail.email_message import EmailMessage
from tasks.billing import statements
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.servers.faulty_s3 import Faults, faulty
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import parse

COUNT = 12


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "ways",
    [
        ("refuse", "refuse", "refuse", "refuse", "pass"),
        ("slow", "pass", "slow", "refuse"),
        ("cut", "pass", "cut", "cut", "cut", "pass"),
        ("cut_after", "pass", "cut_after", "cut_after", "cut_after", "pass"),
    ],
    ids=["500s", "slow", "cut before it is stored", "cut after it is stored"],
)
def test_an_object_store_in_trouble(
    ways: tuple[str, ...], database: Database, ports: Ports, servers: dict[str, str], database_url: str
) -> None:
    with database.transaction() as session:
        for _ in range(COUNT):
            account = an_account(session)
            a_contact(session, account)
            an_entry(session, account, random.randint(1, 9_999))
    statements.plan(ports)
    faults = Faults()
    faults.set(*ways)
    with faulty(servers["TENURE_S3_ENDPOINT"], faults) as endpoint:
        settings = parse(servers | {"TENURE_DATABASE_URL": database_url, "TENURE_S3_ENDPOINT": endpoint})
        troubled = replace(ports, objects=S3ObjectStore(settings))
        for _ in range(40):
            drain(statements.RENDER, troubled)
            with database.connection() as connection:
                # What an outage puts off by seconds is due now: the clock is not what is tested.
                left = connection.execute(
                    text("UPDATE tenure.statements SET due_at = now() WHERE state = 'pending'")
                ).rowcount
            if not left:
                break
    assert set(ways) <= set(faults.met), faults.met
    with database.transaction() as session:
        rows = session.scalars(select(Statement)).all()
        mails = session.scalars(select(EmailMessage.dedupe_key)).all()
    # No attempt was used up: a store that is away is no statement's fault.
    assert {(row.state, row.attempts) for row in rows} == {("done", 1)}
    assert len(rows) == len(mails) == len(set(mails)) == COUNT
    for row in rows:
        assert row.document_key is not None
        assert hashlib.sha256(vault.content(ports, row.document_key)).digest() == row.document_sha256
