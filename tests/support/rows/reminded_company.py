"""A company whose customers, in thirty time zones, owe, promise, pause and dispute; and letters as text."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from models.base.unit_of_work import Database
from tasks.reminders.holds import set_dispute, set_pause, set_promise
from tests.support.rows.reminding import STANDARD, a_debtor, a_policy, an_invoice, run

#: A Thursday; within the next 400 days there are both changes of the clock, a leap day and every holiday.
START = datetime(2027, 3, 4, 0, 30, tzinfo=UTC)
#: Hours from one look of the workers to the next: whatever opens for eight hours a day is seen.
TICK = timedelta(hours=6)

ZONES = {
    "Europe/Berlin": "DE", "Europe/Lisbon": "PT", "Europe/London": "GB", "Europe/Athens": "GR", "Europe/Istanbul": "TR",
    "America/New_York": "US", "America/Chicago": "US", "America/Denver": "US", "America/Los_Angeles": "US",
    "America/Anchorage": "US", "America/St_Johns": "CA", "America/Sao_Paulo": "BR", "America/Santiago": "CL",
    "America/Bogota": "CO", "America/Mexico_City": "MX", "Africa/Cairo": "EG", "Africa/Lagos": "NG",
    "Africa/Casablanca": "MA", "Asia/Jerusalem": "IL", "Asia/Dubai": "AE", "Asia/Kolkata": "IN", "Asia/Kathmandu": "NP",
    "Asia/Tokyo": "JP", "Asia/Seoul": "KR", "Asia/Shanghai": "CN", "Australia/Adelaide": "AU",
    "Australia/Lord_Howe": "AU", "Pacific/Auckland": "NZ", "Pacific/Apia": "WS", "Pacific/Honolulu": None,
}  # fmt: skip

FEES = [{**step, "fee": 250, "fee_currency": "EUR"} if step["days"] > 5 else step for step in STANDARD]


def a_company(database: Database, customers: int, *, until: int, holds: int) -> None:
    """Customers in all zones, with one to four invoices that are due from a month ago to the day `until`, some of them
    promised, paused, disputed; the first two until the day `holds` at the latest.
    """
    drawn = random.Random(815)
    a_policy(database, FEES, minimum_gap_days=4, grace_days=1, opens_at="08:00", closes_at="18:00")
    slow = a_policy(
        database,
        [
            {"days": 15, "level": "first"},
            {"days": 30, "level": "second"},
            {"days": 60, "level": "final", "pay_within": 7},
        ],
        name="slow",
        is_default=False,
        opens_at="09:30",
        closes_at="16:45",
        minimum_gap_days=6,
    )
    for number in range(customers):
        ref = f"kunde-{number:03}"
        zone, country = list(ZONES.items())[number % len(ZONES)]
        days = [drawn.randint(-30, until) for _ in range(drawn.randint(1, 4))]
        invoices = [a_debtor(database, ref, due_on=due(days[0]), time_zone=zone, country=country)]
        invoices += [an_invoice(database, ref, due_on=due(day), amount=drawn.randint(1, 99_999)) for day in days[1:]]
        with database.transaction() as session:
            (account,) = [row.id for row in run(database, "SELECT id FROM tenure.accounts WHERE ref = :ref", ref=ref)]
            match number % 9:
                case 0:
                    set_promise(session, account, invoices[0], due(drawn.randint(5, holds)))
                case 1:
                    set_pause(session, account, None, due(drawn.randint(5, holds)))
                case 2:
                    set_pause(session, account, invoices[-1], due(drawn.randint(5, holds)))
                case 3 if number % 2:
                    set_dispute(session, account, invoices[0], None)
                case _:
                    pass
        if number % 5 == 0:
            run(database, "UPDATE tenure.accounts SET reminder_policy_id = :slow WHERE ref = :ref", slow=slow, ref=ref)
    run(database, "UPDATE tenure.open_items SET due_on = NULL WHERE due_on = :day", day=due(100))


def due(day: int) -> date:
    return START.date() + timedelta(days=day)


def written(message: str, context: Mapping[str, Any]) -> str:
    """A letter as text, which says whose it is, on which day, and every amount."""
    return f"{message} {json.dumps(context, sort_keys=True)}"
