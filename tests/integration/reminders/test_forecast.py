"""What was simulated is what is sent: 400 days, 30 time zones, letter by letter (B19)."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta

import pytest

from models.base.unit_of_work import Database
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.ports.context import Ports
from tasks.reminders.forecast import simulate
from tasks.reminders.plan import plan
from tests.support.rows.reminded_company import START, TICK, a_company, written
from tests.support.rows.reminding import letters
from tests.support.servers.mail_server import MailServer
from tests.support.servers.processes import measured
from tests.support.time.clock import Clock

DAYS = 400
#: A customer or two for each time zone; `make faults` takes 200.
CUSTOMERS = int(os.environ.get("FORECAST_CUSTOMERS", "40"))


@pytest.mark.timeout(900)
def test_a_simulation_equals_what_is_sent_when_time_goes_by(
    clock: Clock, database: Database, server_ports: Ports, server: MailServer
) -> None:
    clock.set(START)
    a_company(database, CUSTOMERS, until=330, holds=200)
    with database.snapshot() as session:
        foreseen = list(simulate(session, START, DAYS))

    moment = START
    while moment <= START + timedelta(days=DAYS):
        clock.set(moment)
        if plan(server_ports)["planned"]:
            drain(SEND, server_ports)
        moment += TICK
    sent = letters(database)
    assert {row.state for row in sent} == {"done"}
    assert len(server.accepted) == len(sent)
    # The two ends of the time differ by the hour, not by the day, around the earth.
    last = START + timedelta(days=DAYS - 2)
    expected = Counter(written(each.message, each.context) for each in foreseen if each.at < last)
    found = Counter(written(row.message, row.context) for row in sent if row.local_day < last.date())
    whole = Counter(written(each.message, each.context) for each in foreseen)
    assert expected - Counter(written(row.message, row.context) for row in sent) == {}, "foreseen, and not sent"
    assert found - whole == {}, "sent, and not foreseen"
    measured(f"{len(foreseen)} letters foreseen for {DAYS} days, {found.total()} of them compared with what was sent")
