-- The ledger: entries are numbered in the order of their commits, and stay (B1, B3).

-- What may never change refuses it here; the trigger's argument says what to do instead.
CREATE OR REPLACE FUNCTION tenure.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%: % is refused; %', TG_ARGV[0], TG_OP, TG_ARGV[1]
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

-- What may never change may be deleted by the purge of its account alone (P6.1), which says whom it purges: `SET LOCAL
-- tenure.purging`. The trigger's argument is a query for the accounts whose rows are in tenure_removed.
CREATE OR REPLACE FUNCTION tenure.refuse_removal_of_others() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    strange boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM (%s) AS removed (account) WHERE account::text IS DISTINCT FROM %L)',
                   TG_ARGV[0], current_setting('tenure.purging', true)) INTO strange;
    IF strange THEN
        RAISE EXCEPTION 'the purge of one account deletes rows of another from %', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tenure.is_purging() RETURNS boolean LANGUAGE sql STABLE
RETURN coalesce(current_setting('tenure.purging', true), '') <> '';

CREATE OR REPLACE FUNCTION tenure.refuse_unknown_currency() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenure.currencies WHERE code = NEW.currency) THEN
        RAISE EXCEPTION '"%" is not a currency of ISO 4217; use a code such as EUR', NEW.currency
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER refuse_unknown_currency BEFORE INSERT OR UPDATE OF currency ON tenure.accounts
    FOR EACH ROW EXECUTE FUNCTION tenure.refuse_unknown_currency();
CREATE OR REPLACE TRIGGER refuse_unknown_currency BEFORE INSERT ON tenure.ledger_entries
    FOR EACH ROW EXECUTE FUNCTION tenure.refuse_unknown_currency();

-- Holding the account's row until COMMIT makes the writers of one account queue up; only then is a number drawn. So an
-- entry that becomes visible later always has a higher number than all that were visible before, and none is left out.
-- Under REPEATABLE READ the look for the last number is as old as the transaction: the unique index refuses what is
-- drawn twice, and the transaction is to be tried again.
CREATE OR REPLACE FUNCTION tenure.number_ledger_entry() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account_status text;
    uncredited bigint;
BEGIN
    SELECT status INTO account_status FROM tenure.accounts WHERE id = NEW.account_id FOR NO KEY UPDATE;
    IF account_status <> 'active' THEN
        RAISE EXCEPTION 'the account is %: its ledger takes no more entries', account_status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- One that does not exist is refused by the foreign key.
    NEW.sequence := 1 + coalesce(
        (SELECT max(sequence) FROM tenure.ledger_entries WHERE account_id = NEW.account_id), 0);
    IF NEW.applies_to IS NOT NULL AND NOT EXISTS (
        SELECT FROM tenure.invoices
         WHERE id = NEW.applies_to AND kind = 'invoice' AND account_id = NEW.account_id AND currency = NEW.currency)
    THEN
        RAISE EXCEPTION 'the % is for an invoice that this account does not have in %', NEW.kind, NEW.currency
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.kind = 'credit' AND NEW.applies_to IS NOT NULL THEN
        SELECT invoice.total + coalesce((SELECT sum(earlier.amount) FROM tenure.ledger_entries AS earlier
                                          WHERE earlier.applies_to = invoice.id AND earlier.kind = 'credit'), 0)
          INTO uncredited FROM tenure.invoices AS invoice WHERE invoice.id = NEW.applies_to;
        IF -NEW.amount > uncredited THEN
            RAISE EXCEPTION 'the credit of % is more than the % that earlier credits have left of its invoice',
                -NEW.amount, uncredited USING ERRCODE = 'integrity_constraint_violation',
                HINT = 'Credit that much at the most, or leave the invoice out: then it is credit on the account.';
        END IF;
    END IF;
    IF NEW.reverses IS NOT NULL AND NOT EXISTS (
        SELECT FROM tenure.ledger_entries
         WHERE id = NEW.reverses AND kind = 'payment' AND account_id = NEW.account_id AND currency = NEW.currency)
    THEN
        RAISE EXCEPTION 'the % takes back a payment that this account has not made in %', NEW.kind, NEW.currency
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER number_ledger_entry BEFORE INSERT ON tenure.ledger_entries
    FOR EACH ROW EXECUTE FUNCTION tenure.number_ledger_entry();

CREATE OR REPLACE TRIGGER refuse_ledger_change BEFORE UPDATE OR TRUNCATE ON tenure.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'the ledger is append-only', 'write a credit, refund or charge that corrects it');
CREATE OR REPLACE TRIGGER refuse_ledger_removal BEFORE DELETE ON tenure.ledger_entries
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'the ledger is append-only', 'write a credit, refund or charge that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.ledger_entries
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT
    EXECUTE FUNCTION tenure.refuse_removal_of_others('SELECT account_id FROM tenure_removed');

-- The way into the ledger from any language, in the application's own transaction:
--
--     SELECT tenure.record_entry('acme', 'payment', 'EUR', 1999, 'Card payment', now(), external_ref => 'pay-4711');
--
-- The amount is a positive number of minor units; the kind gives it its sign. What is wrong is said at once, in a
-- sentence, and nothing is stored: a fraction too, which a plain INSERT into a bigint column would round. The same
-- external_ref again gives the same entry.
CREATE OR REPLACE FUNCTION tenure.record_entry(
    account text, kind text, currency text, amount numeric, description text,
    occurred_at timestamptz DEFAULT now(), external_ref text DEFAULT NULL, due_on date DEFAULT NULL,
    tax_category text DEFAULT 'O', tax_rate int DEFAULT 0, applies_to text DEFAULT NULL, reverses text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_account uuid;
    the_invoice uuid;
    the_payment uuid;
    signed bigint;
    earlier record;
    made uuid;
BEGIN
    SELECT a.id INTO the_account FROM tenure.accounts AS a WHERE a.ref = account;
    IF the_account IS NULL THEN
        RAISE EXCEPTION 'there is no account of that ref' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use the ref of a row of tenure.accounts.';
    END IF;
    IF kind IS NULL OR kind NOT IN ('charge', 'payment', 'credit', 'refund', 'chargeback') THEN
        RAISE EXCEPTION '"%" is not a kind of ledger entry', left(coalesce(kind, 'NULL'), 80)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is charge, payment, credit, refund or chargeback.';
    END IF;
    IF amount IS NULL OR amount <> trunc(amount) OR amount <= 0 OR amount > 1e15 THEN
        RAISE EXCEPTION 'the amount % is not a positive whole number of minor units', left(coalesce(amount::text, 'NULL'), 40)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write 1999 for 19.99 EUR; the kind gives the sign.';
    END IF;
    signed := CASE WHEN kind IN ('payment', 'credit') THEN -amount ELSE amount END;
    IF applies_to IS NOT NULL THEN
        SELECT i.id INTO the_invoice FROM tenure.invoices AS i WHERE i.number = applies_to AND i.account_id = the_account;
        IF the_invoice IS NULL THEN
            RAISE EXCEPTION 'the account has no invoice of that number' USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    IF reverses IS NOT NULL THEN
        SELECT e.id INTO the_payment FROM tenure.ledger_entries AS e
         WHERE e.external_ref = reverses AND e.account_id = the_account;
        IF the_payment IS NULL THEN
            RAISE EXCEPTION 'the account has no payment of that external_ref' USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref,
                                       due_on, tax_category, tax_rate, applies_to, reverses)
    VALUES (the_account, kind, currency, signed, description, occurred_at, external_ref,
            due_on, tax_category, tax_rate, the_invoice, the_payment)
    ON CONFLICT ON CONSTRAINT uq_ledger_entries_account_id_external_ref DO NOTHING RETURNING id INTO made;
    IF made IS NULL THEN
        SELECT e.* INTO earlier FROM tenure.ledger_entries AS e
         WHERE e.account_id = the_account AND e.external_ref = external_ref;
        IF (earlier.kind, earlier.currency, earlier.amount) IS DISTINCT FROM (kind, currency, signed) THEN
            RAISE EXCEPTION 'the external_ref of this % was used for another entry', kind USING ERRCODE = 'unique_violation',
                HINT = 'Use a new key for a new fact, or the same values for the same one.';
        END IF;
        made := earlier.id;
    END IF;
    RETURN made;
END $$;
