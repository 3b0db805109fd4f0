"""Statements from the ledger to the queued mail, in one process over real servers."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select

from models import EmailMessage, Statement
from models.unit_of_work import Database
from tasks import statements
from tasks.drain import drain
from tasks.ports import Ports
from tests.company import a_contact, an_account, an_entry


def test_a_closed_period_becomes_a_statement_a_document_and_a_mail(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        an_entry(session, account, 12_000, occurred_at=datetime(2026, 9, 1, tzinfo=UTC))
        an_entry(session, account, 5_000)
        an_entry(session, account, -7_000)

    assert statements.plan(ports)["planned"] == 1
    assert drain(statements.RENDER, ports) == {"rendered": 1}

    with database.transaction() as session:
        statement = session.scalars(select(Statement)).one()
        mail = session.scalars(select(EmailMessage)).one()
    assert (statement.opening, statement.closing, statement.line_count) == (12_000, 10_000, 2)
    assert statement.document_key is not None
    assert ports.objects.get(statement.document_key).startswith(b"%PDF-")
    assert mail.dedupe_key.startswith(f"statement:{statement.id}")
    assert mail.context["closing"] == 10_000
