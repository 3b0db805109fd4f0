-- Legal holds (S6, T22): what is stored about an account stays until its holds are released. models/termination/legal_hold.py says
-- what a transaction must ask before it deletes.
--
-- Whoever places a hold and whoever deletes must not miss each other. Placing one takes the account's row FOR UPDATE, and
-- a transaction that deletes of one account takes it FOR KEY SHARE, as every writer of the account does. A sweep, which
-- deletes of thousands of accounts at a time, locks no row of theirs: it shares one advisory lock, which placing a hold
-- takes alone. Either way a hold is there before the rows are looked for, or waits until they are gone.

-- Whether something holds the account's data, for whoever only looks.
CREATE OR REPLACE FUNCTION tenure.is_held(account uuid) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM tenure.legal_holds AS hold WHERE hold.account_id = account AND hold.released_at IS NULL);

-- Under a snapshot of its own a transaction would wait for a hold and then not see it.
CREATE OR REPLACE FUNCTION tenure.refuse_snapshot() RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a transaction that deletes customers'' data is READ COMMITTED, and this one is %',
                        upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state', HINT = 'In another one it would not see a hold placed meanwhile.';
    END IF;
END $$;

-- For a transaction that is about to delete an account's data, in a statement of its own: true where nothing holds them,
-- and then a hold that somebody places waits until this transaction has ended.
CREATE OR REPLACE FUNCTION tenure.free_to_delete(account uuid) RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenure.refuse_snapshot();
    PERFORM FROM tenure.accounts AS a WHERE a.id = account FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no account %, whose data are to be deleted', coalesce(account::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the id of a row of tenure.accounts.';
    END IF;
    -- A statement after the lock, so that it sees the hold that was waited for.
    RETURN NOT tenure.is_held(account);
END $$;

-- The same for a transaction that is about to delete of many accounts: holds wait from here on, and what statements after
-- this one find in tenure.legal_holds is true until the transaction ends. Such a transaction has a short lock_timeout:
-- whoever places a hold may have an account's row that it asks for later.
CREATE OR REPLACE FUNCTION tenure.await_holds() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenure.refuse_snapshot();
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('tenure.legal_holds', 0));
END $$;

CREATE OR REPLACE FUNCTION tenure.order_hold() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account_status text;
BEGIN
    SELECT a.status INTO account_status FROM tenure.accounts AS a WHERE a.id = NEW.account_id FOR UPDATE;
    -- Last, and for no longer than it takes to commit: the row may have to be waited for, and sweeps go on meanwhile.
    PERFORM pg_advisory_xact_lock(hashtextextended('tenure.legal_holds', 0));
    IF account_status = 'purged' THEN
        RAISE EXCEPTION 'account % is purged: nothing is left that a hold could keep', NEW.account_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- Sessions in other programs' stores end by themselves: the relay wakes the sweep, which copies them.
    PERFORM pg_notify('tenure_work', 'sessions');
    RETURN NEW;
END $$;

-- For an account that is frozen, too: the fence does not stand here.
CREATE OR REPLACE TRIGGER order_hold BEFORE INSERT ON tenure.legal_holds FOR EACH ROW
    EXECUTE FUNCTION tenure.order_hold();

-- A hold is proof of why a purge waited: it can be released, once, and nothing else about it can change.
CREATE OR REPLACE FUNCTION tenure.keep_hold() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'hold % cannot be deleted', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', HINT = 'Release it: SELECT tenure.release_hold(hold, by).';
    END IF;
    IF OLD.released_at IS NOT NULL
       OR (NEW.id, NEW.account_id, NEW.reference, NEW.reason, NEW.placed_by, NEW.placed_at)
          IS DISTINCT FROM (OLD.id, OLD.account_id, OLD.reference, OLD.reason, OLD.placed_by, OLD.placed_at)
    THEN
        RAISE EXCEPTION 'hold % cannot be changed: it can be released, and that once', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', HINT = 'Place another one.';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER keep_hold BEFORE UPDATE OR DELETE ON tenure.legal_holds FOR EACH ROW
    EXECUTE FUNCTION tenure.keep_hold();

-- Hold the data of the account of this ref; the hold's id. The same case of the same account again is the same hold.
-- Waits for those who are writing or deleting rows of the account: end the transaction soon, since they wait for it.
CREATE OR REPLACE FUNCTION tenure.place_hold(account text, reference text, reason text, placed_by text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    the_account uuid;
    made uuid;
BEGIN
    IF coalesce(btrim(reference), '') = '' OR coalesce(btrim(reason), '') = '' OR coalesce(btrim(placed_by), '') = '' THEN
        RAISE EXCEPTION 'a hold has a reference, a reason and somebody who places it'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT a.id INTO the_account FROM tenure.accounts AS a WHERE a.ref IN (account, tenure.purged_ref(account));
    IF the_account IS NULL THEN
        RAISE EXCEPTION 'the account that a hold was asked for is not known'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the ref of a row of tenure.accounts.';
    END IF;
    INSERT INTO tenure.legal_holds (account_id, reference, reason, placed_by)
    VALUES (the_account, btrim(place_hold.reference), btrim(place_hold.reason), btrim(place_hold.placed_by))
    ON CONFLICT (account_id, reference) WHERE released_at IS NULL
    -- Changes nothing, and gives the id.
    DO UPDATE SET reference = excluded.reference RETURNING id INTO made;
    RETURN made;
END $$;

-- Release a hold; whether it was in force. What it alone has kept goes with the next purge or sweep.
CREATE OR REPLACE FUNCTION tenure.release_hold(hold uuid, released_by text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF coalesce(btrim(released_by), '') = '' THEN
        RAISE EXCEPTION 'a hold is released by somebody' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE tenure.legal_holds AS h SET released_at = now(), released_by = btrim(released_by)
     WHERE h.id = hold AND h.released_at IS NULL;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM tenure.legal_holds AS h WHERE h.id = hold) THEN
        RAISE EXCEPTION 'there is no hold %', hold USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN FOUND;
END $$;
