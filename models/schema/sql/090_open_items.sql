-- Open items: each payment, credit, refund, chargeback and invoice finds at once what it is set off against (B9).
--
-- Everything here runs in the transaction that writes the entry or the invoice, which holds the account's row; so the
-- decisions of an account are taken one after the other, in the order of its ledger, and the same ledger always leads to
-- the same allocations.

-- What is allocated lowers what is open, on both sides; the table's checks keep it between nothing and the whole.
CREATE OR REPLACE FUNCTION tenure.apply_allocations() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tenure.open_items AS item SET open = item.open - taken.amount
      FROM (SELECT id, sum(amount) AS amount
              FROM (SELECT credit_id AS id, amount FROM added UNION ALL SELECT debit_id, amount FROM added) AS sides
             GROUP BY id) AS taken
     WHERE item.id = taken.id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER apply_allocations AFTER INSERT ON tenure.allocations
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tenure.apply_allocations();
CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON tenure.allocations
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'allocations are append-only', 'a negative one takes back another');
CREATE OR REPLACE TRIGGER refuse_removal BEFORE DELETE ON tenure.allocations
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'allocations are append-only', 'a negative one takes back another');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.allocations
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT
    EXECUTE FUNCTION tenure.refuse_removal_of_others('SELECT account_id FROM tenure_removed');

-- A person may put off a due date or note a dispute, and planners rest an item; all else follows from ledger and invoices.
CREATE OR REPLACE FUNCTION tenure.keep_open_item() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_trigger_depth() = 1 AND to_jsonb(NEW) - ARRAY['due_on', 'disputed', 'collect_from', 'remind_from']
                               <> to_jsonb(OLD) - ARRAY['due_on', 'disputed', 'collect_from', 'remind_from'] THEN
        RAISE EXCEPTION 'of an open item only due_on and disputed can be set; record a payment or credit, or issue a credit note'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER keep_open_item BEFORE UPDATE ON tenure.open_items
    FOR EACH ROW EXECUTE FUNCTION tenure.keep_open_item();
CREATE OR REPLACE TRIGGER refuse_change BEFORE TRUNCATE ON tenure.open_items
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'open items stay', 'record a payment or credit, or issue a credit note');
CREATE OR REPLACE TRIGGER refuse_removal BEFORE DELETE ON tenure.open_items
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'open items stay', 'record a payment or credit, or issue a credit note');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.open_items
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT
    EXECUTE FUNCTION tenure.refuse_removal_of_others('SELECT account_id FROM tenure_removed');

-- Set off what is open on both sides: the earliest credit first, against what has been due longest. Both sides are laid
-- along one line, in their order; where two stretches overlap, so much of the one settles so much of the other.
CREATE OR REPLACE FUNCTION tenure.settle_open_items(the_account uuid, the_currency text, at_sequence bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH item AS MATERIALIZED (
        SELECT id, side, due_on, sequence, open FROM tenure.open_items
         WHERE account_id = the_account AND currency = the_currency AND open > 0
    ), credit AS (
        SELECT id, sum(open) OVER (ORDER BY sequence, id) - open AS starts, sum(open) OVER (ORDER BY sequence, id) AS ends
          FROM item WHERE side = 'credit'
    ), debit AS (
        SELECT id, sum(open) OVER earlier - open AS starts, sum(open) OVER earlier AS ends
          FROM item WHERE side = 'debit' WINDOW earlier AS (ORDER BY due_on NULLS LAST, sequence, id)
    )
    INSERT INTO tenure.allocations (account_id, credit_id, debit_id, amount, sequence)
    SELECT the_account, credit.id, debit.id,
           least(credit.ends, debit.ends) - greatest(credit.starts, debit.starts), at_sequence
      FROM credit JOIN debit ON credit.starts < debit.ends AND debit.starts < credit.ends
     ORDER BY debit.starts, credit.starts
$$;

-- Pay `wanted` of a refund or chargeback out of one credit: what of it is open, and, as far as that is too little, what
-- it had settled, of the invoice that is due latest first. Returns how much that was.
CREATE OR REPLACE FUNCTION tenure.draw_on_credit(the_credit uuid, the_debit uuid, wanted bigint, at_sequence bigint)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_account uuid;
    available bigint;
BEGIN
    SELECT account_id, open INTO the_account, available FROM tenure.open_items WHERE id = the_credit;
    INSERT INTO tenure.allocations (account_id, credit_id, debit_id, amount, sequence)
    SELECT the_account, the_credit, debit_id, -least(amount, wanted - available - before), at_sequence
      FROM (SELECT settled.debit_id, settled.amount, coalesce(sum(settled.amount) OVER (
                       ORDER BY item.due_on DESC NULLS FIRST, item.sequence DESC, item.id DESC
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
              FROM (SELECT debit_id, sum(amount)::bigint AS amount FROM tenure.allocations
                     WHERE credit_id = the_credit GROUP BY debit_id HAVING sum(amount) > 0) AS settled
              -- What a refund has taken is gone.
              JOIN tenure.open_items AS item ON item.id = settled.debit_id AND item.invoice_id IS NOT NULL) AS settled
     WHERE wanted - available - before > 0;
    SELECT least(open, wanted) INTO available FROM tenure.open_items WHERE id = the_credit;
    IF available > 0 THEN
        INSERT INTO tenure.allocations (account_id, credit_id, debit_id, amount, sequence)
        VALUES (the_account, the_credit, the_debit, available, at_sequence);
    END IF;
    RETURN available;
END $$;

CREATE OR REPLACE FUNCTION tenure.open_entry() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
    item uuid;
    undone uuid;
    wanted bigint := abs(NEW.amount);
BEGIN
    SELECT invoiced_from, time_zone INTO account FROM tenure.accounts WHERE id = NEW.account_id;
    IF account.invoiced_from IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO tenure.open_items (account_id, currency, side, entry_id, due_on, sequence, amount, open)
    VALUES (NEW.account_id, NEW.currency, CASE WHEN NEW.amount < 0 THEN 'credit' ELSE 'debit' END, NEW.id,
            CASE WHEN NEW.amount > 0 THEN coalesce(NEW.due_on, (NEW.occurred_at AT TIME ZONE account.time_zone)::date) END,
            NEW.sequence, wanted, wanted)
    RETURNING id INTO item;

    IF NEW.applies_to IS NOT NULL THEN
        INSERT INTO tenure.allocations (account_id, credit_id, debit_id, amount, sequence)
        SELECT NEW.account_id, item, told.id, least(told.open, wanted), NEW.sequence
          FROM tenure.open_items AS told WHERE told.invoice_id = NEW.applies_to AND told.open > 0;
    ELSIF NEW.reverses IS NOT NULL THEN
        SELECT id INTO undone FROM tenure.open_items WHERE entry_id = NEW.reverses;
        IF undone IS NOT NULL THEN
            wanted := wanted - tenure.draw_on_credit(undone, item, wanted, NEW.sequence);
        END IF;
    END IF;
    PERFORM tenure.settle_open_items(NEW.account_id, NEW.currency, NEW.sequence);

    IF NEW.amount > 0 THEN
        -- Money that was given back or taken back, and no credit to pay it from: then payments did not settle what they
        -- had settled, the latest first.
        LOOP
            SELECT open INTO wanted FROM tenure.open_items WHERE id = item;
            EXIT WHEN wanted = 0;
            SELECT paid.id INTO undone
              FROM tenure.open_items AS paid
              JOIN tenure.ledger_entries AS entry ON entry.id = paid.entry_id AND entry.kind = 'payment'
             WHERE paid.account_id = NEW.account_id AND paid.currency = NEW.currency AND paid.side = 'credit'
               AND (SELECT coalesce(sum(settled.amount), 0) FROM tenure.allocations AS settled
                      JOIN tenure.open_items AS debit ON debit.id = debit_id AND debit.invoice_id IS NOT NULL
                     WHERE settled.credit_id = paid.id) > 0
             ORDER BY paid.sequence DESC LIMIT 1;
            EXIT WHEN undone IS NULL;
            PERFORM tenure.draw_on_credit(undone, item, wanted, NEW.sequence);
        END LOOP;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER open_entry AFTER INSERT ON tenure.ledger_entries
    FOR EACH ROW WHEN (NEW.kind <> 'charge') EXECUTE FUNCTION tenure.open_entry();

-- An invoice is opened, and takes what credit there is. A credit note takes back no more than its invoice has left, and
-- is a credit in the ledger, which settles that invoice first; what it was paid already becomes credit.
CREATE OR REPLACE FUNCTION tenure.open_invoice() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last_sequence bigint := coalesce(
        (SELECT max(sequence) FROM tenure.ledger_entries WHERE account_id = NEW.account_id), 0);
BEGIN
    IF NEW.kind = 'invoice' THEN
        INSERT INTO tenure.open_items (account_id, currency, side, invoice_id, due_on, sequence, amount, open)
        VALUES (NEW.account_id, NEW.currency, 'debit', NEW.id, NEW.due_on, last_sequence, NEW.total, NEW.total);
        PERFORM tenure.settle_open_items(NEW.account_id, NEW.currency, last_sequence);
    ELSE
        UPDATE tenure.open_items SET credited = credited + NEW.total
         WHERE invoice_id = NEW.corrects_id AND account_id = NEW.account_id AND currency = NEW.currency
           AND credited + NEW.total <= amount;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'credit note % takes back % minor units, more than is left of its invoice', NEW.number, NEW.total
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref, applies_to)
        VALUES (NEW.account_id, 'credit', NEW.currency, -NEW.total, NEW.number, NEW.issued_at,
                'credit-note:' || NEW.number, NEW.corrects_id);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER open_invoice AFTER INSERT ON tenure.invoices
    FOR EACH ROW EXECUTE FUNCTION tenure.open_invoice();

-- Every invoice as it stands now: what was credited, what other credits and payments settled, what is open of it.
CREATE OR REPLACE VIEW tenure.invoice_balances AS
SELECT invoice.id AS invoice_id, invoice.account_id, invoice.number, invoice.currency, invoice.issued_on, item.due_on,
       invoice.total, item.credited, item.amount - item.open AS settled, item.open, item.disputed,
       CASE WHEN item.open > 0 AND item.open = item.amount THEN 'open' WHEN item.open > 0 THEN 'partly_settled'
            WHEN item.credited = item.amount THEN 'void' ELSE 'settled' END AS state,
       item.id AS item_id, item.sequence
  FROM tenure.invoices AS invoice JOIN tenure.open_items AS item ON item.invoice_id = invoice.id;

-- What reminders and ageing look at: invoices of which something is open. `disputed` is part of `open`.
CREATE OR REPLACE VIEW tenure.open_invoices AS
SELECT invoice_id, account_id, number, currency, issued_on, due_on, total, open, least(disputed, open) AS disputed
  FROM tenure.invoice_balances WHERE open > 0;
