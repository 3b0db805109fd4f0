"""Details that are kept right: changes are confirmed where they concern someone, and asked after once a year (P8.1)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.customers import details
from tasks.engine.drain import drain
from tasks.mail.send import SEND, SEND_URGENT
from tasks.ports.context import Ports
from tasks.requests.handle import HANDLE
from tests.support.rows.company import a_contact, an_account
from tests.support.servers.mail_server import MailServer


def change(database: Database, sql: str, **values: Any) -> None:
    with database.connection() as connection:
        connection.execute(text(sql), values)


def a_customer(database: Database, **values: Any) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme", name="Acme", **values)
        a_contact(session, account, email="jane@customer.example", name="Jane")
        a_contact(session, account, email="joe@customer.example", name="Joe", receives_statements=False)


def queued(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    with database.connection() as connection:
        rows = connection.execute(
            text("SELECT message, to_address, context FROM tenure.email_messages ORDER BY created_at, to_address")
        )
        return [(row.message, row.to_address, row.context) for row in rows]


def told(database: Database) -> set[tuple[str, str]]:
    return {(address, context["recipient"]) for _, address, context in queued(database)}


def test_a_new_address_is_confirmed_to_the_old_one_and_to_the_new_one(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    a_customer(database)
    change(database, "UPDATE tenure.contacts SET email = 'jane@new.example' WHERE name = 'Jane'")
    assert drain(HANDLE, server_ports) == {"handled": 1}
    assert told(database) == {("jane@customer.example", "old_address"), ("jane@new.example", "new_address")}
    assert drain(SEND_URGENT, server_ports) == {"sent": 2}
    assert sorted(command for command in server.commands if command.startswith("RCPT")) == [
        "RCPT TO:<jane@customer.example>",
        "RCPT TO:<jane@new.example>",
    ]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "UPDATE tenure.contacts SET name = 'Jane Doe' WHERE name = 'Jane'",
            {("jane@customer.example", "contact_name")},
        ),
        (
            "UPDATE tenure.accounts SET address = ARRAY['Lane 2', 'Town'], tax_id = 'ATU1'",
            {
                ("jane@customer.example", "address"),
                ("jane@customer.example", "tax_id"),
                ("joe@customer.example", "address"),
                ("joe@customer.example", "tax_id"),
            },
        ),
        ("UPDATE tenure.contacts SET email = email, name = name", set()),
        ("UPDATE tenure.contacts SET optional_mail = false", set()),
        ("UPDATE tenure.accounts SET name = 'Purged', status = 'purged'", set()),
    ],
)
def test_whom_a_change_concerns_is_told_of_it_and_nobody_else(
    database: Database, ports: Ports, sql: str, expected: set[tuple[str, str]]
) -> None:
    a_customer(database)
    change(database, sql)
    drain(HANDLE, ports)
    found = {(address, each["detail"]) for _, address, context in queued(database) for each in context["changes"]}
    assert found == expected
    assert {recipient for _, recipient in told(database)} <= {"unchanged_address"}
    if sql.startswith("UPDATE tenure.accounts SET address"):
        (_, _, context) = queued(database)[0]
        assert {"detail": "address", "before": "Straße 1, 10115 Berlin", "after": "Lane 2, Town"} in context["changes"]


def test_a_change_that_rolls_back_is_confirmed_to_nobody(database: Database, ports: Ports) -> None:
    a_customer(database)
    with pytest.raises(ZeroDivisionError), database.connection() as connection:
        connection.execute(text("UPDATE tenure.contacts SET email = 'x@new.example' WHERE name = 'Jane'"))
        raise ZeroDivisionError
    assert drain(HANDLE, ports) == {"handled": 0}
    assert queued(database) == []


def test_a_change_is_confirmed_once_however_often_that_is_asked(database: Database, ports: Ports) -> None:
    a_customer(database)
    change(database, "UPDATE tenure.contacts SET email = 'jane@new.example' WHERE name = 'Jane'")
    drain(HANDLE, ports)
    change(
        database,
        """INSERT INTO tenure.job_requests (kind, args, account_id)
           SELECT kind, args, account_id FROM tenure.job_requests""",
    )
    assert drain(HANDLE, ports) == {"handled": 1}
    assert len(queued(database)) == 2


def test_a_change_of_another_account_is_not_confirmed(database: Database, ports: Ports) -> None:
    a_customer(database)
    with database.transaction() as session:
        other = an_account(session).id
    change(database, "UPDATE tenure.contacts SET email = 'jane@new.example' WHERE name = 'Jane'")
    change(database, "UPDATE tenure.job_requests SET account_id = :other", other=other)
    assert drain(HANDLE, ports) == {"handled": 0, "failed": 1}
    assert queued(database) == []


def test_each_contact_is_asked_once_a_year_and_not_before(database: Database, ports: Ports) -> None:
    """The details check (E14)."""
    a_customer(database)
    with database.transaction() as session:
        frozen = an_account(session)
        a_contact(session, frozen, email="frozen@customer.example")
    assert details.plan_checks(ports) == 0
    change(database, "UPDATE tenure.contacts SET created_at = now() - interval '366 days'")
    change(database, "UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id", id=frozen.id)
    change(database, "UPDATE tenure.contacts SET optional_mail = false WHERE name = 'Joe'")
    assert [details.plan_checks(ports), details.plan_checks(ports)] == [1, 0]
    ((message, address, context),) = queued(database)
    assert (message, address, context["reason"]) == ("details-check", "jane@customer.example", "yearly")
    assert [each["name"] for each in context["people"]] == ["Jane", "Joe"]
    assert drain(SEND, ports) == {"sent": 1}

    # Even where the note of it is lost, nobody is asked twice in a year: the dedupe key knows.
    change(database, "UPDATE tenure.contacts SET details_checked_at = NULL WHERE name IN ('Jane', 'Joe')")
    details.plan_checks(ports)
    assert len(queued(database)) == 1
    for table, column in (("contacts", "created_at"), ("contacts", "details_checked_at")):
        change(
            database, f"UPDATE tenure.{table} SET {column} = {column} - interval '1 year' WHERE name IN ('Jane', 'Joe')"
        )
    assert details.plan_checks(ports) == 1
    assert Counter(address for _, address, _ in queued(database)) == {"jane@customer.example": 2}


def test_many_are_asked_in_batches(database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "BATCH", 2)
    with database.transaction() as session:
        for _ in range(5):
            a_contact(session, an_account(session))
    change(database, "UPDATE tenure.contacts SET created_at = now() - interval '2 years'")
    assert details.plan_checks(ports) == 5
    assert len(queued(database)) == 5
