-- A key of an account's objects is made for an active account only, and one that was destroyed stays so (T27): else a
-- task that slept through the purge could seal something for an account of which nothing is left.

CREATE OR REPLACE FUNCTION tenure.guard_account_key() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- The lock is that of a foreign key. A freeze waits for it, and whoever waited for a freeze sees its end.
        PERFORM FROM tenure.accounts WHERE id = NEW.account_id AND status = 'active' FOR KEY SHARE;
        IF NEW.purpose = 'objects' AND NOT FOUND THEN
            RAISE EXCEPTION 'account % is not active: nothing is sealed for it any more', NEW.account_id
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    ELSIF OLD.wrapped_secret IS NULL THEN
        RAISE EXCEPTION 'key % was destroyed: it stays as it is', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE ON tenure.account_keys
    FOR EACH ROW EXECUTE FUNCTION tenure.guard_account_key();
