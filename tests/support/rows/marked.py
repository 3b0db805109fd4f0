"""A customer with something in every table of Tenure's, and a marker wherever a text may be: for what must be gone."""

from __future__ import annotations

import re
from uuid import UUID

import psycopg
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys
from tasks.billing.invoice_issue import issue_batch
from tasks.client.files import store_file
from tasks.ports.context import Ports
from tests.support.rows import vault
from tests.support.rows.paying import SELLER

#: In every value that takes a text; ASCII and lower case, so that addresses and ids can bear it.
MARKER = "zqmarker7"

ACCOUNT = text("""
    INSERT INTO tenure.accounts (ref, name, address, country, currency, tax_id, period_start, invoiced_from,
                                 payment_terms)
    VALUES (:ref, :m || ' Ltd', ARRAY[:m || ' Road 1', :m], 'AT', 'EUR', :m, now()::date, now()::date - 9, 0)
    RETURNING id""")

BEFORE = """
    INSERT INTO tenure.contacts (account_id, name, email, language, receives_statements)
        SELECT :a, :m || n, :m || n || '@' || :ref || '.example', 'de', true FROM generate_series(1, 3) AS n;
    INSERT INTO tenure.contracts (account_id, plan, starts_on) VALUES (:a, :m, now()::date);
    UPDATE tenure.contacts SET name = :m || ' the second' WHERE account_id = :a AND name = :m || '1';
    SELECT tenure.record_entry(:ref, 'charge', 'EUR', 11900, :m, now() - interval '2 hours',
        external_ref => :m || '-c');
    INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind, digits)
        VALUES (:a, 'cus_' || :m || :ref, 'pm_' || :m || :ref, 'card', '4242')
"""
AFTER_INVOICE = """
    SELECT tenure.record_entry(:ref, 'payment', 'EUR', 5000, :m, now(), external_ref => :m || '-p', applies_to =>
        (SELECT number FROM tenure.invoices WHERE account_id = :a));
    SELECT tenure.record_entry(:ref, 'chargeback', 'EUR', 1000, :m, now(), external_ref => :m || '-b',
        reverses => :m || '-p');
    INSERT INTO tenure.collection_attempts (account_id, invoice_id, method_id, number, local_day, currency, state,
            outcome, asked_at, amount, provider_payment, decline_reason, decline_code)
        SELECT :a, invoice.id, method.id, 1, now()::date, 'EUR', 'done', 'declined', now(), 6900, 'pi_' || :m || :ref,
               'refused', :m
          FROM tenure.invoices AS invoice, tenure.payment_methods AS method
         WHERE invoice.account_id = :a AND method.account_id = :a;
    INSERT INTO tenure.payment_events (account_id, delivery, event, event_type, payment, body, signature)
        VALUES (:a, sha256(:ref ::bytea), 'evt_' || :m, :m, 'pi_' || :m, :m ::bytea, :m);
    INSERT INTO tenure.email_messages (account_id, contact_id, message, to_address, context, attachments, dedupe_key,
                                       message_id, state, finished_at, accepted_by, accepted_as, last_error)
        SELECT :a, id, 'statement', email, jsonb_build_object('name', :m),
               jsonb_build_array(jsonb_build_object('key', :m)),
               :m || id, id || '@' || :m, 'done', now(), :m, :m, :m FROM tenure.contacts WHERE account_id = :a;
    INSERT INTO tenure.delivery_events (email_message_id, kind, occurred_at, detail)
        SELECT id, 'bounced', now(), :m FROM tenure.email_messages WHERE account_id = :a;
    INSERT INTO tenure.suppressions (account_id, address, reason, detail, email_message_id)
        SELECT account_id, to_address, 'bounce', :m, id FROM tenure.email_messages WHERE account_id = :a;
    INSERT INTO tenure.statements (account_id, currency, period_start, period_end, opens_at, closes_at, opening_cutoff,
            cutoff, opening, closing, line_count, not_due, days_1_30, days_31_60, days_61_90, over_90,
            unapplied_credit, form, open_items, account_ref, account_name, address, time_zone, letterhead,
            document_key, state, finished_at)
        SELECT :a, 'EUR', '2020-10-01', '2020-11-01', '2020-10-01', '2020-11-01', 0, 9, 0, 100, 1, 100, 0, 0, 0, 0, 0,
               'open_item', jsonb_build_array(:m), :ref, :m, ARRAY[:m], 'UTC', sha256, 'statements/' || :a || '/1.pdf',
               'done', now()
          FROM tenure.letterheads LIMIT 1;
    INSERT INTO tenure.usage_events (account_id, action, location, browser, operating_system, referral_source, details)
        SELECT :a, :m, :m, :m, :m, :m, jsonb_build_object(:m, n) FROM generate_series(1, 25) AS n;
    INSERT INTO tenure.reminder_letters (account_id, currency, kind, local_day, level)
        VALUES (:a, 'EUR', 'reminder', now()::date, 'first');
    INSERT INTO tenure.reminders (account_id, letter_id, invoice_id, step, level)
        SELECT :a, letter.id, invoice.id, 1, 'first' FROM tenure.reminder_letters AS letter, tenure.invoices AS invoice
         WHERE letter.account_id = :a AND invoice.account_id = :a;
    INSERT INTO tenure.reminder_copies (email_message_id, account_id, letter_id)
        SELECT mail.id, :a, letter.id FROM tenure.email_messages AS mail, tenure.reminder_letters AS letter
         WHERE mail.account_id = :a AND letter.account_id = :a;
    INSERT INTO tenure.reminder_holds (account_id, kind) VALUES (:a, 'pause');
    INSERT INTO tenure.submitted_records (account_id, kind, external_ref, content)
        SELECT :a, :m, :m || n, jsonb_build_object(:m, :m) FROM generate_series(1, 12) AS n
"""
FREEZE = """
    UPDATE tenure.accounts SET status = 'frozen' WHERE id = :a;
    SELECT set_config('tenure.purging', :a, true);
    INSERT INTO tenure.sessions (account_id, contact_id, secret_sha256, ip, user_agent)
        SELECT :a, id, sha256('x'), :m, :m FROM tenure.contacts WHERE account_id = :a;
    INSERT INTO tenure.held_sessions (id, account_id, contact_id, ip, user_agent)
        SELECT uuidv7(), :a, id, :m, :m FROM tenure.contacts WHERE account_id = :a;
    INSERT INTO tenure.held_session_keys (account_id, store, key_sha256, type, value)
        VALUES (:a, :m, sha256('x'), 'string', :m ::bytea)
"""


def a_marked_customer(ports: Ports, ref: str, marker: str = MARKER) -> AccountKeys:
    """An active customer; each of its rows has the marker in it, but for those that hold numbers alone."""
    database = ports.database
    with database.transaction() as session:
        account: UUID = session.execute(ACCOUNT, {"ref": ref, "m": marker}).scalar_one()
    _run(database, BEFORE, account, ref, marker)
    with database.transaction() as session:
        issue_batch(session, SELLER, account)
    _run(database, AFTER_INVOICE, account, ref, marker)
    for number in range(3):
        name, content = f"{marker} {number}.txt", [marker.encode() * 1000]
        store_file(database, ports.objects, ports.keyring, account=ref, name=name, content=content)
    vault.put(ports, f"statements/{account}/1.pdf", f"%PDF {marker}".encode())
    return AccountKeys(account, ref)


def freeze(database: Database, account: AccountKeys, marker: str = MARKER) -> None:
    """What is true of an account whose contract is over; and sessions that a web server has begun all the same."""
    _run(database, FREEZE, account.id, account.ref, marker)


def _run(database: Database, statements: str, account: UUID, ref: str, marker: str) -> None:
    with database.connection() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        values = {"a": str(account), "ref": ref, "m": marker}
        for statement in statements.split(";\n"):
            # With the values in the text: PostgreSQL cannot tell the types of all of them.
            driver.execute(re.sub(r"(?<!:):(a|ref|m)\b", lambda found: f"'{values[found[1]]}'", statement))
