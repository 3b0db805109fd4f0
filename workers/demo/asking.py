"""The demo's three ways of asking for work, besides the clock: as a company's own programs would (W5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg

from workers.demo.company import Company

#: The new customer of the web tier, and the one that changed its mind.
SIGNED_UP = "C-90001"
CHANGED_ITS_MIND = "C-90002"
#: What of it is personal.
SIGN_UP_WORDS = frozenset({"Luís Gonçalves", "luis.goncalves@c-90001.example"})

_SIGN_UP = """
    WITH account AS (
        INSERT INTO tenure.accounts (ref, name, address, country, currency, time_zone)
        VALUES (%(ref)s, 'Luís Gonçalves Engenharia', '{"Rua do Século, 12", "1200-434 Lisboa"}', 'PT', 'EUR',
                'Europe/Lisbon') RETURNING id)
    INSERT INTO tenure.contacts (account_id, name, email, language, time_zone, receives_statements)
    SELECT id, 'Luís Gonçalves', 'luis.goncalves@' || lower(%(ref)s) || '.example', 'pt-PT', 'Europe/Lisbon', true
      FROM account"""
_REQUEST = "SELECT tenure.request('emails.send_account_set_up', jsonb_build_object('account', %(ref)s::text), %(key)s)"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, so that the checks know what must have come of it."""

    signed_up: UUID
    #: Refs of accounts whose sessions are to be revoked, and whose statements are to be sent.
    revoked: Sequence[str]
    sent: Sequence[str]
    welcomed: Sequence[str]
    #: The id of the message with wrong arguments.
    wrong: str

    @property
    def requests(self) -> int:
        """Rows of `tenure.job_requests` to be."""
        return 1 + len(self.revoked) + len(self.sent) + len(self.welcomed)


def sign_up(database_url: str) -> UUID:
    """The web tier, in SQL alone: a new customer and the request to welcome it, committed together.

    A second one is rolled back, and with it its request.
    """
    with psycopg.connect(database_url, application_name="web tier") as connection:
        connection.execute(_SIGN_UP, {"ref": SIGNED_UP})
        row = connection.execute(_REQUEST, {"ref": SIGNED_UP, "key": f"sign-up-{SIGNED_UP}"}).fetchone()
        connection.commit()
        connection.execute(_SIGN_UP, {"ref": CHANGED_ITS_MIND})
        connection.execute(_REQUEST, {"ref": CHANGED_ITS_MIND, "key": f"sign-up-{CHANGED_ITS_MIND}"})
        connection.rollback()
    if row is None:
        raise RuntimeError("tenure.request returned no row: run `tenure migrate`.")
    return UUID(str(row[0]))


def send_from_another_program(broker_url: str, company: Company, signed_up: UUID) -> Asked:
    """Send messages from a second process that knows the broker's address, Celery, and nothing of ours."""
    customers = company.customers
    refs = [customer.ref for customer in customers]
    count = min(3, len(refs))
    revoked, sent, welcomed = refs[-count:], refs[:count], refs[count // 2 : count // 2 + 2]
    wrong = {"acount": refs[0], "customer_name": f"{customers[0].people[0].name}, {customers[0].people[0].email}"}
    messages = [
        *(("sessions.revoke", {"account": ref}) for ref in revoked),
        *(("statements.send", {"account": ref}) for ref in sent),
        *(("emails.send_account_set_up", {"account": ref}) for ref in welcomed),
        ("statements.send", wrong),
    ]
    done = subprocess.run(
        # -I: neither our folder nor the environment's paths; the address travels where `ps` does not show it.
        [sys.executable, "-I", str(Path(__file__).with_name("another_program.py"))],
        input=json.dumps({"broker": broker_url, "messages": messages}),
        capture_output=True,
        text=True,
        check=False,
        cwd=tempfile.gettempdir(),
        env={name: value for name, value in os.environ.items() if not name.startswith("TENURE_")},
        start_new_session=True,
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The second process could not send its messages: {done.stderr.strip()[-500:]}")
    ids = json.loads(done.stdout)
    return Asked(signed_up=signed_up, revoked=revoked, sent=sent, welcomed=welcomed, wrong=ids[-1])
