-- The ledger: entries are numbered in the order of their commits, and stay (B1, B3).

-- Holding the account's row until COMMIT makes the writers of one account queue up; only then is a number drawn. So an
-- entry that becomes visible later always has a higher number than all that were visible before.
CREATE OR REPLACE FUNCTION tenure.number_ledger_entry() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM tenure.accounts WHERE id = NEW.account_id FOR NO KEY UPDATE;
    NEW.sequence := nextval('tenure.ledger_sequence');
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER number_ledger_entry BEFORE INSERT ON tenure.ledger_entries
    FOR EACH ROW EXECUTE FUNCTION tenure.number_ledger_entry();

CREATE OR REPLACE FUNCTION tenure.refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % is refused; write a credit, refund or charge that corrects it', TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE OR REPLACE TRIGGER refuse_ledger_change BEFORE UPDATE OR DELETE OR TRUNCATE ON tenure.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_ledger_change();
