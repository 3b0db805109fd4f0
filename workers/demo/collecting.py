"""Some customers are invoiced and their cards charged; who owes is told, and reminded (B8, B12, B21).

The payment provider is a process of the demo's own that charges nobody. It loses one answer after the money was taken,
and declines one card. What is checked afterwards is the provider's own list beside the ledger.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from time import monotonic, sleep
from typing import Any, Final
from zoneinfo import ZoneInfo

from celery import Celery
from rich.table import Table
from rich.text import Text
from sqlalchemy import Row, text

from email_templates.language.currencies import minor_digits
from models.base.unit_of_work import Database
from tasks.reminders.calendar import calendar
from workers.adapters.payments.stripe import from_stripe
from workers.demo.books import PLANS, price
from workers.demo.checks import Finding
from workers.demo.company import Company, Customer
from workers.demo.page import Page
from workers.demo.watching import STALLED, Stalled
from workers.local.servers.payments import DECLINED_CARD
from workers.settings.settings import Settings
from workers.terminal.output import counted

#: So many customers at the most; of four, one pays by transfer, and the second one's card is declined.
MOST: Final = 12
TRANSFER_EVERY: Final = 4
DECLINED: Final = 1
#: Months that a year in advance costs.
YEAR: Final = 10
#: Seconds between two looks, and between two ticks.
_LOOK: Final = 0.2
_TICK: Final = 2.0

_SUBSCRIBE = text("""
    WITH yearly AS (
        UPDATE tenure.accounts SET invoiced_from = (now() AT TIME ZONE time_zone)::date, payment_terms = 0
         WHERE ref = :ref RETURNING id
    ), card AS (
        INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind, digits)
        SELECT id, 'cus_' || :ref, :method, 'card', '4242' FROM yearly WHERE CAST(:method AS text) IS NOT NULL
    )
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, 'charge', :currency, :amount, :description, now() FROM yearly""")
_ASK = text(
    "SELECT tenure.request('invoices.issue', jsonb_build_object('account', CAST(:ref AS text)), 'yearly-' || :ref)"
)
#: At any hour of a business day, since the demo may run at any.
_REMIND = text("""
    SELECT tenure.set_reminder_policy('standard', '[{"days": 0, "level": "upcoming"}, {"days": 7, "level": "first"},
        {"days": 21, "level": "second"}, {"days": 35, "level": "final", "pay_within": 10}]',
        opens_at => '00:00', closes_at => '23:59', is_default => true)""")

_INVOICES = text("""
    SELECT invoice.number, invoice.series_number, account.ref, balance.total, balance.open, invoice.currency,
           document.state = 'done' AS rendered, balance.invoice_id,
           'invoice-issued' = ANY (mail.sent) AS mailed, 'payment-failed' = ANY (mail.sent) AS told,
           (SELECT count(DISTINCT reminder.letter_id) FROM tenure.reminders AS reminder
              JOIN tenure.reminder_copies AS copy ON copy.letter_id = reminder.letter_id
              JOIN tenure.email_messages AS mail ON mail.id = copy.email_message_id AND mail.state = 'done'
             WHERE reminder.invoice_id = invoice.id) AS letters,
           attempt.outcome, attempt.attempts AS tries
      FROM tenure.invoices AS invoice
      JOIN tenure.invoice_balances AS balance ON balance.invoice_id = invoice.id
      JOIN tenure.invoice_documents AS document ON document.invoice_id = invoice.id
      JOIN tenure.accounts AS account ON account.id = invoice.account_id
      LEFT JOIN LATERAL (SELECT outcome, attempts FROM tenure.collection_attempts
                          WHERE invoice_id = invoice.id ORDER BY number DESC LIMIT 1) AS attempt ON true
     CROSS JOIN LATERAL (SELECT array_agg(message) AS sent FROM tenure.email_messages
                          WHERE account_id = account.id AND state = 'done') AS mail
     ORDER BY invoice.series_number""")
_PAID = text("""
    SELECT entry.external_ref, -entry.amount AS amount FROM tenure.ledger_entries AS entry
     WHERE entry.kind = 'payment' AND entry.external_ref LIKE 'stripe:%'""")


@dataclass(frozen=True, slots=True)
class Payer:
    customer: Customer
    #: The provider's name of the card; None where the customer pays by transfer.
    card: str | None
    amount: int

    @property
    def is_declined(self) -> bool:
        return self.card == DECLINED_CARD

    @property
    def is_reminded(self) -> bool:
        """Whether a letter leaves today: to who pays by transfer, on a business day there (B15), since a card that was
        declined is tried again tomorrow."""
        if self.card is not None:
            return False
        today = datetime.now(ZoneInfo(self.customer.time_zone)).date()
        return calendar(self.customer.country).closed(today) is None


class Collecting:
    def __init__(self, page: Page, settings: Settings, database: Database, company: Company, leaving: Customer) -> None:
        self._page = page
        self._settings = settings
        self._database = database
        # Who leaves afterwards is known to the payment provider, too, and has to be forgotten there (T21).
        chosen = [leaving, *(each for each in company.customers if each is not leaving)][:MOST]
        self._payers = {each.ref: _payer(number, each) for number, each in enumerate(chosen)}
        self._broker = Celery(broker=settings.broker_url)

    def run(self) -> list[Finding]:
        """From the charge to the letter. Raises Stalled where nothing moves any more."""
        page, began = self._page, monotonic()
        page.heading("Invoices are paid")
        with page.step("in SQL") as said:
            self._subscribe()
            said.append(
                f"A year in advance for {counted(len(self._payers), 'customer')}: charged, and invoices.issue asked "
                "for, in one transaction each."
            )
        with page.step("the invoices") as said:
            rows = self._until(lambda rows: all(row.rendered and row.mailed for row in rows), "invoice")
            numbers = " to ".join(dict.fromkeys((rows[0].number, rows[-1].number)))
            said.append(f"{numbers}, each mailed as PDF: {monotonic() - began:.0f} s")
        with page.step("the money") as said:
            rows = self._until(self._collected, "payment", "payments.plan", "payments.settle")
            charged = [row for row in rows if row.outcome == "charged"]
            lost = (
                "; of one the answer was lost after the money was taken: looked up, and not taken again"
                if any(row.tries > 1 for row in charged)
                else ""
            )
            said.append(f"{counted(len(charged), 'card')} charged{lost}.")
        with page.step("reminders") as said:
            with self._database.connection() as connection:
                connection.execute(_REMIND)
            rows = self._until(self._reminded, "reminder", "reminders.plan")
            said.append(self._letters(rows))
        page.console.print(_picture(rows))
        return self._findings(rows)

    def _subscribe(self) -> None:
        for payer in self._payers.values():
            customer = payer.customer
            values = {
                "ref": customer.ref,
                "method": payer.card,
                "currency": customer.currency,
                "amount": payer.amount,
                "description": f"{customer.plan} plan, one year in advance",
            }
            with self._database.connection() as connection:
                connection.execute(_SUBSCRIBE, values)
                connection.execute(_ASK, {"ref": customer.ref})

    def _until(self, reached: Callable[[Sequence[Row[Any]]], bool], what: str, *looks: str) -> Sequence[Row[Any]]:
        """Say "look now" from time to time, as the clock does more seldom, and wait."""
        began = monotonic()
        looked = -_TICK
        while True:
            if monotonic() - looked > _TICK:
                looked = monotonic()
                for each in looks:
                    self._broker.send_task(each)
            with self._database.connection() as connection:
                rows = connection.execute(_INVOICES).all()
            if len(rows) == len(self._payers) and reached(rows):
                return rows
            if monotonic() - began > STALLED:
                raise Stalled(f"Some {what} has not come to its end in {STALLED:.0f} s. See the worker's log.")
            sleep(_LOOK)

    def _collected(self, rows: Sequence[Row[Any]]) -> bool:
        def settled(row: Row[Any]) -> bool:
            payer = self._payers[row.ref]
            if payer.is_declined:
                return bool(row.outcome == "declined" and row.told)
            return bool(payer.card is None or (row.outcome == "charged" and row.open == 0))

        return all(settled(row) for row in rows)

    def _reminded(self, rows: Sequence[Row[Any]]) -> bool:
        return all(row.letters > 0 for row in rows if self._payers[row.ref].is_reminded)

    def _letters(self, rows: Sequence[Row[Any]]) -> str:
        left = sum(row.letters for row in rows)
        owing = sum(self._payers[row.ref].card is None for row in rows)
        later = f"; {owing - left} more on the next business day there" if owing > left else ""
        declined = (
            " The declined card is tried again tomorrow." if any(row.outcome == "declined" for row in rows) else ""
        )
        return f"{counted(left, 'letter')} to who pays by transfer{later}.{declined}"

    def _findings(self, rows: Sequence[Row[Any]]) -> list[Finding]:
        numbers = [row.series_number for row in rows]
        owing = [row for row in rows if row.open]
        with self._database.connection() as connection:
            booked = {row.external_ref.removeprefix("stripe:"): row.amount for row in connection.execute(_PAID)}
        charged = [each for each in self._provider("/v1/charges?limit=100") if each["status"] == "succeeded"]
        taken = {each["id"]: from_stripe(each["amount"], each["currency"].upper()) for each in charged}
        due = sum(payer.card is not None and not payer.is_declined for payer in self._payers.values())
        wrong_letters = [row.number for row in rows if row.letters != int(self._payers[row.ref].is_reminded)]
        return [
            Finding.of(
                "invoices have no gap",
                "Their numbers follow each other without a gap, and none was given twice.",
                counted(len(numbers), "number"),
                f"the numbers are {numbers}" if numbers != list(range(1, len(rows) + 1)) else None,
            ),
            Finding.of(
                "collected once",
                "The provider's own list of charges is that of the payments in the ledger, one for each card.",
                f"{counted(len(taken), 'charge')} at the provider, the same {len(booked)} in the ledger",
                "they are not the same" if taken != booked else None,
                f"{len(taken)} charges of {due} cards" if len(taken) != due else None,
            ),
            Finding.of(
                "reminded only who owes",
                "Who pays by transfer got one letter, where it is a business day today; nobody else got one.",
                f"{counted(sum(row.letters for row in owing), 'letter')} for {counted(len(owing), 'open invoice')}",
                *(f"not so: {number}" for number in wrong_letters),
            ),
        ]

    def _provider(self, path: str) -> list[dict[str, Any]]:
        request = urllib.request.Request(  # noqa: S310 - the demo's own provider
            f"{self._settings.stripe_api}{path}",
            headers={"Authorization": f"Bearer {self._settings.stripe_secret_key}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["data"]
            return found


def _payer(number: int, customer: Customer) -> Payer:
    card = None if number % TRANSFER_EVERY == TRANSFER_EVERY - 1 else f"pm_{customer.ref}"
    if number == DECLINED:
        card = DECLINED_CARD
    euros = dict(PLANS)[customer.plan]
    return Payer(customer, card, price(YEAR * euros, customer.currency))


def _picture(rows: Sequence[Row[Any]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for row in rows:
        digits = minor_digits(row.currency)
        amount = f"{Decimal(row.total).scaleb(-digits):,.{digits}f} {row.currency}"
        table.add_row(f"  {row.number}", row.ref, amount, _state(row))
    return table


def _state(row: Row[Any]) -> Text:
    if not row.open:
        return Text("paid by card", style="green")
    declined = "card declined, customer told" if row.outcome == "declined" else "to be paid by transfer"
    return Text(f"{declined}{', reminded' if row.letters else ''}", style="yellow")
