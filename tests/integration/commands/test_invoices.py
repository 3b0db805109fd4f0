"""`tenure invoices`, as an operator types it: real commands, real exit codes."""

from __future__ import annotations

import json
from datetime import date

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account, an_entry
from workers.commands import invoices
from workers.commands.group import cli
from workers.settings.settings import Settings

pytestmark = pytest.mark.clock("2026-11-22 12:00")


@pytest.fixture
def customer(database: Database) -> str:
    """`acme`, charged 119.00 EUR with tax and 6 JPY in October, who paid 100.00 EUR in advance."""
    with database.transaction() as session:
        account = an_account(session, ref="acme", invoiced_from=date(2026, 10, 1))
        a_contact(session, account)
        an_entry(session, account, -10_000, description="Bank transfer")
        an_entry(session, account, 11_900, tax_category="S", tax_rate=1900, description="Business plan")
        an_entry(session, account, 6, currency="JPY")
    return "acme"


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The commands in this process: starting one for each mistake takes longer than the mistake."""
    monkeypatch.setattr(invoices, "settings", lambda: settings)
    return CliRunner()


def test_an_invoice_is_issued_looked_at_and_corrected(customer: str, database: Database, tenure: Run) -> None:
    issued = tenure("invoices", "issue", "--all-due")
    assert issued.returncode == 0, issued.stderr
    assert "2 invoices were issued" in issued.stdout
    assert "Every charge" in tenure("invoices", "issue", "--account", customer).stdout

    shown = tenure("invoices", "show", "INV-000001")
    for part in ("INV-000001", "partly settled", "Business plan", "19 %", "119.00 EUR", "payment", "19.00 EUR"):
        assert part in shown.stdout, (part, shown.stdout)
    credited = tenure("invoices", "credit", "INV-000001", "--amount", "30", "--reason", "Two seats less.")
    assert credited.stdout == "CN-000001 takes back 30.00 EUR of INV-000001.\n"

    found = json.loads(tenure("invoices", "show", "INV-000001", "--json").stdout)
    assert (found["state"], found["open"], found["credited"], found["total"]) == ("settled", 0, 3_000, 11_900)
    assert [note["number"] for note in found["credit_notes"]] == ["CN-000001"]
    assert sum(each["amount"] for each in found["settled_by"]) == 11_900
    note = tenure("invoices", "show", "CN-000001").stdout
    assert "credit note for INV-000001" in note
    assert "Two seats less." in note


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["issue"], "say whose invoices"),
        (["issue", "--account", "nobody"], "there is no account of that ref"),
        (["issue", "--account", "elsewhere"], "set accounts.invoiced_from"),
        (["credit", "INV-000001"], "say what to take back"),
        (["credit", "INV-000001", "--all", "--amount", "1"], "say what to take back"),
        (["credit", "INV-000001", "--amount", "119.01"], "119.01 EUR is more than what is left of INV-000001"),
        (["credit", "INV-000001", "--amount", "1.005"], "'1.005' has 3 decimals, and EUR has 2."),
        (["credit", "INV-000001", "--amount", "-1"], "credit a positive amount"),
        (["credit", "INV-000001", "--amount", "ten"], "'ten' is not an amount"),
        (["credit", "INV-000002", "--amount", "0.5"], "'0.5' has 1 decimals, and JPY has 0."),
        (["credit", "INV-000001", "--lines", "1,x"], "'1,x' are no lines"),
        (["credit", "INV-000001", "--lines", "2"], "no line 2"),
        (["credit", "INV-000009", "--all"], "there is no invoice 'INV-000009'"),
    ],
)
def test_wrong_use_is_answered_in_a_sentence_and_changes_nothing(
    customer: str, database: Database, command: CliRunner, arguments: list[str], complaint: str
) -> None:
    with database.transaction() as session:
        an_account(session, ref="elsewhere")
    assert command.invoke(cli, ["invoices", "issue", "--all-due"]).exit_code == 0
    done = command.invoke(cli, ["invoices", *arguments])
    assert done.exit_code == 2, done.output
    assert complaint in done.stderr
    with database.connection() as connection:
        counts = connection.execute(
            text("SELECT (SELECT count(*) FROM tenure.invoices), (SELECT count(*) FROM tenure.ledger_entries)")
        )
        assert tuple(counts.one()) == (2, 3)


def test_an_invoice_that_there_is_not_is_told(command: CliRunner) -> None:
    done = command.invoke(cli, ["invoices", "show", "INV-000001"])
    assert (done.exit_code, done.stderr) == (1, "tenure: there is no invoice or credit note 'INV-000001'.\n")
