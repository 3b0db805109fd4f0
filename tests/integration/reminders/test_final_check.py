"""The last look at a reminder: what settles it before the mail server has the message stops it (B12, B13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from tasks.billing.credit_notes import credit
from tasks.collection.plan import plan as plan_payments
from tasks.engine.drain import drain
from tasks.failures import Transient
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tasks.reminders.holds import end_early, set_dispute, set_pause, set_promise
from tasks.reminders.plan import plan
from tests.support.rows.paying import SELLER
from tests.support.rows.reminding import a_debtor, a_policy, an_invoice, letters, pay, reminded, run
from tests.support.servers.mail_server import MailServer
from tests.support.servers.ses_server import SESServer
from tests.support.time.clock import Clock
from workers.adapters.mail.ses import SESMailer
from workers.local.servers.payments import PaymentProvider

pytestmark = pytest.mark.clock("2027-06-09 08:00")

#: A Wednesday in Berlin.
TEN = datetime(2027, 6, 9, 8, tzinfo=UTC)
DUE = date(2027, 5, 31)


@pytest.fixture
def number(clock: Clock, database: Database, server_ports: Ports) -> str:
    """The invoice, long due, whose reminder waits to be sent; of a hundred euros."""
    clock.set(TEN)
    a_policy(database)
    made = a_debtor(database, due_on=DUE)
    assert plan(server_ports) == {"planned": 1}
    return made


def the_account(session: Session) -> object:
    return session.scalars(text("SELECT id FROM tenure.accounts")).one()


def paid(database: Database, _number: str) -> None:
    pay(database, "acme", 10_000)


def written_off(database: Database, _number: str) -> None:
    pay(database, "acme", 10_000, kind="credit")


def voided(database: Database, number: str) -> None:
    with database.transaction() as session:
        invoice = session.scalars(text("SELECT id FROM tenure.invoices WHERE number = :n"), {"n": number}).one()
        credit(session, SELLER, invoice, reason="Storno")


def disputed(database: Database, number: str) -> None:
    with database.transaction() as session:
        set_dispute(session, the_account(session), number, None)


def promised(database: Database, number: str) -> None:
    with database.transaction() as session:
        set_promise(session, the_account(session), number, date(2027, 6, 19))


def paused(database: Database, number: str) -> None:
    with database.transaction() as session:
        set_pause(session, the_account(session), number, None)


def account_paused(database: Database, _number: str) -> None:
    with database.transaction() as session:
        set_pause(session, the_account(session), None, date(2027, 6, 9))


def put_off(database: Database, _number: str) -> None:
    run(database, "UPDATE tenure.open_items SET due_on = :day WHERE invoice_id IS NOT NULL", day=date(2027, 6, 30))


def other_terms(database: Database, _number: str) -> None:
    run(database, "UPDATE tenure.open_items SET due_on = NULL WHERE invoice_id IS NOT NULL")


def policy_gone(database: Database, _number: str) -> None:
    a_policy(database, [])


def frozen(database: Database, _number: str) -> None:
    run(database, "UPDATE tenure.accounts SET status = 'frozen'")


def collected(database: Database, number: str) -> None:
    run(
        database,
        """
        WITH method AS (
            INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind)
            SELECT id, 'cus_1', 'pm_1', 'card' FROM tenure.accounts RETURNING id, account_id)
        INSERT INTO tenure.collection_attempts (account_id, invoice_id, method_id, number, local_day, currency)
        SELECT method.account_id, invoice.id, method.id, 1, :day, 'EUR' FROM method, tenure.invoices AS invoice
         WHERE invoice.number = :number""",
        number=number,
        day=date(2027, 6, 9),
    )


HAPPENINGS: dict[Callable[[Database, str], None], str] = {
    paid: "Everything that it reminds of is settled.",
    written_off: "Everything that it reminds of is settled.",
    voided: "Everything that it reminds of is settled.",
    disputed: "All that is open of it is disputed.",
    promised: "Payment is promised for 2027-06-19, which is waited for until 2027-06-21.",
    paused: "Somebody paused its reminders until further notice.",
    account_paused: "Somebody paused the account's reminders until 2027-06-09.",
    put_off: "By the policy and the hours as they are now, it does not go out at this moment.",
    other_terms: "It has no due date, and what has none is never reminded of.",
    policy_gone: "By the policy and the hours as they are now, it does not go out at this moment.",
    frozen: "The account is frozen: it is not reminded any more.",
    collected: "Its payment is being collected.",
}


@pytest.mark.usefixtures("number")
def test_a_letter_that_is_as_it_was_planned_is_offered_once(
    database: Database, server_ports: Ports, server: MailServer
) -> None:
    assert drain(SEND, server_ports) == {"sent": 1}
    assert [command.split()[0].upper() for command in server.commands] == ["EHLO", "MAIL", "RCPT", "DATA"]
    assert [letter.state for letter in letters(database)] == ["done"]


@pytest.mark.parametrize("happens", HAPPENINGS, ids=lambda happens: happens.__name__)
def test_what_settles_an_invoice_while_the_mail_server_pauses_stops_its_reminder(
    database: Database, server_ports: Ports, server: MailServer, number: str, happens: Callable[[Database, str], None]
) -> None:
    def before_354(_content: bytes) -> str:
        # The server has agreed to the recipient, and takes its time before it says so.
        happens(database, number)
        return "250 ok"

    server.script["RCPT"] = [before_354]
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    (letter,) = letters(database)
    assert (letter.state, letter.last_error) == ("cancelled", HAPPENINGS[happens])
    assert server.contents == []
    assert "DATA" not in server.commands
    plan(server_ports)
    if happens is frozen:
        assert letters(database)[0].withdrawn_at is None, "nothing is written for the account any more"
        return
    assert reminded(database) == [], "its step is free again"
    assert letters(database)[0].withdrawn_at is not None


@pytest.fixture
def hasty(database_url: str) -> Iterator[Database]:
    """The database for somebody who waits a tenth of a second for a lock."""
    made = Database(database_url)

    @event.listens_for(made.engine, "connect")
    def hurry(connection: Any, _record: Any) -> None:
        connection.execute("SET lock_timeout = '100ms'")
        connection.commit()

    yield made
    made.engine.dispose()


@pytest.mark.parametrize("happens", [paid, voided, disputed, promised, paused], ids=lambda happens: happens.__name__)
def test_what_comes_after_the_look_waits_until_the_letter_was_answered(
    *,
    database: Database,
    hasty: Database,
    server_ports: Ports,
    server: MailServer,
    number: str,
    happens: Callable[[Database, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.engine.locks.LOCK_TIMEOUT", timedelta(milliseconds=100))
    waited: list[str] = []

    def at_354(_content: bytes) -> str:
        try:
            happens(hasty, number)
        except (OperationalError, Transient) as error:
            waited.append(type(error).__name__)
        return "354 go on"

    server.script["DATA"] = [at_354]
    assert drain(SEND, server_ports) == {"sent": 1}
    assert len(waited) == 1, "it was committed between the look and the message"
    happens(hasty, number)
    assert len(server.accepted) == 1


def test_a_collection_is_not_begun_while_a_reminder_of_its_invoice_is_being_sent(
    database: Database, server_ports: Ports, server: MailServer, number: str
) -> None:
    with PaymentProvider() as provider:
        from workers.adapters.payments.stripe import StripeGateway

        paying = replace(
            server_ports,
            payments=StripeGateway(provider.secret_key, provider.webhook_secret, provider.address),
        )
        planned: list[int] = []

        def at_354(_content: bytes) -> str:
            run(
                database,
                """
                INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind)
                SELECT id, 'cus_1', 'pm_1', 'card' FROM tenure.accounts""",
            )
            planned.append(plan_payments(paying))
            return "354 go on"

        server.script["DATA"] = [at_354]
        assert drain(SEND, server_ports) == {"sent": 1}
        assert planned == [0]
        assert plan_payments(paying) == 1


def test_a_partial_payment_renders_the_reminder_anew(
    database: Database, server_ports: Ports, server: MailServer, number: str
) -> None:
    def at_rcpt(_content: bytes) -> str:
        pay(database, "acme", 2_500)
        return "250 ok"

    server.script["RCPT"] = [at_rcpt]
    assert drain(SEND, server_ports) == {"sent": 1}
    (letter,) = letters(database)
    assert (letter.state, letter.context["total"]) == ("done", 7_500)
    assert letter.context["invoices"] == [{"number": number, "due_on": "2027-05-31", "still_open": 7_500}]
    (content,) = server.accepted
    assert b"75,00" in content
    assert b"100,00" not in content
    assert server.connections == 1
    assert [command for command in server.commands if command == "DATA"] == ["DATA"]


def test_what_keeps_changing_is_tried_again_later(
    database: Database, server_ports: Ports, server: MailServer, number: str
) -> None:
    def at_rcpt(_content: bytes) -> str:
        pay(database, "acme", 100)
        return "250 ok"

    server.script["RCPT"] = [at_rcpt] * 3
    assert drain(SEND, server_ports) == {"sent": 0, "retried": 1}
    assert "changed 3 times while it was offered" in str(letters(database)[0].last_error)
    assert server.contents == []


def test_an_invoice_of_several_that_was_paid_is_left_out_and_its_step_is_free(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    clock.set(TEN)
    a_policy(database)
    first = a_debtor(database, due_on=DUE)
    second = an_invoice(database, "acme", due_on=date(2027, 6, 1), amount=5_000)
    assert plan(server_ports) == {"planned": 1}

    def at_rcpt(_content: bytes) -> str:
        disputed(database, first)
        return "250 ok"

    server.script["RCPT"] = [at_rcpt]
    assert drain(SEND, server_ports) == {"sent": 1}
    (letter,) = letters(database)
    assert [each["number"] for each in letter.context["invoices"]] == [second]
    assert reminded(database) == [(second, 2, "first")]
    # The dispute is over: the same step, after the gap.
    with database.transaction() as session:
        end_early(session, the_account(session), first, only="dispute")
    clock.set(TEN + timedelta(days=5))
    assert plan(server_ports) == {"planned": 1}
    assert reminded(database)[1:] == [(first, 3, "first"), (second, 3, "second")]


def test_what_one_copy_has_named_counts_even_if_another_leaves_it_out(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    clock.set(TEN)
    a_policy(database)
    first = a_debtor(database, due_on=DUE, contacts=2)
    second = an_invoice(database, "acme", due_on=DUE)
    assert plan(server_ports) == {"planned": 1}

    def at_second_rcpt(_content: bytes) -> str:
        disputed(database, first)
        return "250 ok"

    server.script["RCPT"] = ["250 ok", at_second_rcpt]
    assert drain(SEND, server_ports) == {"sent": 2}
    said = sorted([each["number"] for each in copy.context["invoices"]] for copy in letters(database))
    assert said == [[first, second], [second]]
    assert [number for number, _, _ in reminded(database)] == [first, second]


@pytest.mark.usefixtures("number")
@pytest.mark.parametrize(
    ("later", "why"),
    [
        (timedelta(hours=9), "By the policy and the hours as they are now, it does not go out at this moment."),
        (timedelta(days=1), "It was written for 2027-06-09, and that day is over there: it is written anew."),
        (timedelta(days=10), "It was written for 2027-06-09, and that day is over there: it is written anew."),
    ],
)
def test_a_letter_that_could_not_leave_in_time_does_not_leave_late(
    *,
    clock: Clock,
    database: Database,
    server_ports: Ports,
    server: MailServer,
    later: timedelta,
    why: str,
) -> None:
    clock.set(TEN + later)
    assert drain(SEND, server_ports) == {"sent": 0, "settled": 1}
    assert letters(database)[0].last_error == why
    assert server.contents == []


def test_a_letter_whose_account_is_locked_for_long_is_tried_again(
    database: Database, server_ports: Ports, server: MailServer, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.mail.final_check.FINAL_CHECK_LOCK_TIMEOUT", timedelta(milliseconds=100))
    with database.connection() as payment:
        payment.execute(text("SELECT FROM tenure.accounts FOR UPDATE"))
        assert drain(SEND, server_ports) == {"sent": 0, "retried": 1}
    assert "is locked by another transaction" in str(letters(database)[0].last_error)
    assert server.contents == []


@pytest.mark.parametrize("happens", [paid, disputed, promised], ids=lambda happens: happens.__name__)
def test_amazon_ses_is_not_called_for_a_reminder_that_is_settled(
    database: Database, server_ports: Ports, number: str, happens: Callable[[Database, str], None]
) -> None:
    with SESServer() as ses:
        far = replace(server_ports, mailer=SESMailer(ses.url, timeout=5))
        happens(database, number)
        assert drain(SEND, far) == {"sent": 0, "settled": 1}
        assert ses.accepted == []
        far.mailer.close()
    assert letters(database)[0].last_error == HAPPENINGS[happens]


def test_amazon_ses_sends_the_amount_that_is_open(database: Database, server_ports: Ports, number: str) -> None:
    with SESServer() as ses:
        far = replace(server_ports, mailer=SESMailer(ses.url, timeout=5))
        pay(database, "acme", 2_500)
        assert drain(SEND, far) == {"sent": 1}
        assert b"75,00" in ses.accepted[0].content
        far.mailer.close()
