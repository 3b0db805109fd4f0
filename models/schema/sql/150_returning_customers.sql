-- A customer who comes back under the ref of one that was purged (T3, T19).
--
-- A purge finds what lies beside Tenure's own tables by the ref, in pass after pass, until it is certified; and what a
-- law makes the company keep is found by it for years. Whoever had the same ref meanwhile would lose its rows and
-- objects with the other's. So the ref is free again when nothing is found by it any more. Then the tombstone gives it
-- up, for good: it would make every write for the new customer one for the old, and stand in the way of its own purge.

CREATE OR REPLACE FUNCTION tenure.take_over_ref() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    purging CONSTANT text := current_setting('tenure.purging', true);
    before record;
BEGIN
    -- After the row is there: a purge that was just giving the ref to the tombstone was waited for. A transaction that
    -- does not see its end, since its snapshot is older, finds the row as it was and fails to serialize.
    SELECT id, ref INTO before FROM tenure.accounts
     WHERE ref IN (NEW.ref, tenure.purged_ref(NEW.ref)) AND id <> NEW.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM tenure.terminations
                WHERE account_id = before.id AND stage NOT IN ('certified', 'cancelled')) THEN
        RAISE EXCEPTION 'an earlier account of the same ref is still being purged: %', before.id
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'Make the new one when that is certified, or under another ref.';
    END IF;
    IF EXISTS (SELECT FROM tenure.retentions WHERE account_id = before.id AND account_ref IS NOT NULL) THEN
        RAISE EXCEPTION 'a law keeps rows of an earlier account of the same ref: %', before.id
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'They would be taken for those of the new one: make it under another ref.';
    END IF;
    PERFORM set_config('tenure.purging', before.id::text, true);
    UPDATE tenure.accounts SET ref = tenure.purged_ref(id::text) WHERE id = before.id;
    PERFORM set_config('tenure.purging', coalesce(purging, ''), true);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER take_over_ref AFTER INSERT OR UPDATE OF ref ON tenure.accounts FOR EACH ROW
    WHEN (NEW.ref !~ '^purged:[0-9a-f]{64}$') EXECUTE FUNCTION tenure.take_over_ref();
