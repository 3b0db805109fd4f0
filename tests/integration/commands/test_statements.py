"""`tenure statements`: real commands, real exit codes; bad input is a sentence and changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from models.base.unit_of_work import Database
from models.billing.statement import Statement
from models.customers.account import Account
from tasks.billing import statements
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.integration.conftest import Run
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account, an_entry

pytestmark = pytest.mark.clock("2026-11-22 12:00")


@pytest.fixture
def acme(database: Database) -> Account:
    with database.transaction() as session:
        account = an_account(session, ref="acme", statement_form="open_item")
        a_contact(session, account)
        an_entry(session, account, 12_000, occurred_at=datetime(2026, 9, 1, tzinfo=UTC))
        an_entry(session, account, 5_000)
        an_entry(session, account, -7_000)
        an_entry(session, an_account(session, ref="another"), 1)
        session.refresh(account)
        return account


@pytest.mark.usefixtures("acme")
def test_run_show_and_render(database: Database, ports: Ports, tenure: Run, tmp_path: Path) -> None:
    ran = tenure("statements", "run", "--account", "acme", "--period", "2026-10-31")
    assert (ran.returncode, ran.stdout) == (
        0,
        "1 period closed, 1 statement planned; workers render and send them.\n",
    )
    again = tenure("statements", "run", "--account", "acme", "--json")
    assert json.loads(again.stdout) == {"accounts": 0, "planned": 0}
    with database.transaction() as session:
        row = session.scalars(select(Statement)).one()

    out = tmp_path / "statement.pdf"
    early = tenure("statements", "render", str(row.id), "--out", str(out))
    assert early.returncode == 0
    assert "have not made this document yet" in early.stdout

    drain(statements.RENDER, ports)
    rendered = tenure("statements", "render", str(row.id), "--out", str(out))
    assert "the same as the document that was sent" in rendered.stdout
    with database.transaction() as session:
        key = session.scalars(select(Statement.document_key)).one()
    assert key is not None
    assert out.read_bytes() == vault.content(ports, key)

    listed = tenure("statements", "show", "acme")
    assert str(row.id) in listed.stdout
    assert "€100.00" in listed.stdout
    # As narrow as terminals are, and no narrower.
    assert max(map(len, listed.stdout.splitlines())) <= 80
    assert "…" not in listed.stdout
    shown = tenure("statements", "show", str(row.id))
    for part in ("Opening balance", "€120.00", "Service", "-70.00", "Closing balance", "€100.00", "How long"):
        assert part in shown.stdout
    told = json.loads(tenure("statements", "show", str(row.id), "--json").stdout)
    assert (told["opening"], told["closing"], told["document"]["ageing"]["days_1_30"]) == (12_000, 10_000, 5_000)
    assert sum(item["open"] for item in told["document"]["open_items"]) == 10_000


@pytest.mark.usefixtures("acme")
def test_a_document_that_is_not_the_one_that_was_sent_is_found_out(
    database: Database, ports: Ports, tenure: Run, tmp_path: Path
) -> None:
    statements.plan(ports)
    drain(statements.RENDER, ports)
    with database.connection() as connection:
        row = connection.execute(
            text("UPDATE tenure.statements SET account_name = 'Forged' WHERE state = 'done' RETURNING id")
        ).scalar_one()
    told = tenure("statements", "render", str(row), "--out", str(tmp_path / "a.pdf"))
    assert told.returncode == 1
    assert "is not the document that was sent" in told.stderr
    assert "typst" in told.stderr


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--account", "nobody"), "there is no account 'nobody'"),
        (("run", "--account", "acme", "--period", "2099-01-01"), "the open one of 'acme' goes from 2026-10-01 to"),
        (("run", "--period", "2026-10-01"), "name it with --account"),
        (("run", "--account", "acme", "--period", "October"), "does not match the format"),
        (("show", "nobody"), "neither the id of a statement nor the ref of an account"),
        (("show", str(uuid4())), "there is no statement"),
        (("render", str(uuid4()), "--out", "a.pdf"), "there is no statement"),
        (("render", "acme", "--out", "a.pdf"), "is not a valid UUID"),
    ],
)
def test_bad_input_is_a_sentence_and_changes_nothing(
    database: Database, tenure: Run, words: tuple[str, ...], sentence: str
) -> None:
    told = tenure("statements", *words)
    assert told.returncode == 2
    assert sentence in told.stderr
    assert "Traceback" not in told.stderr
    with database.transaction() as session:
        assert session.scalars(select(Statement)).all() == []


def test_a_frozen_account_closes_no_period(database: Database, tenure: Run, acme: Account) -> None:
    with database.transaction() as session:
        session.get_one(Account, acme.id).status = "frozen"  # type: ignore[assignment]
    told = tenure("statements", "run", "--account", "acme")
    assert (told.returncode, told.stderr) == (
        2,
        "tenure: the account 'acme' is frozen: no period of it closes.\n",
    )
