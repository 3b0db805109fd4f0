-- The fence (T9): a statement that writes rows of a frozen or purged account is refused, whoever sends it.
--
-- Whoever freezes an account and whoever writes for it must not miss each other. A writer locks the account's row FOR
-- KEY SHARE, which hinders nobody but its freezing, and then looks at its status; a change of status takes the row FOR
-- UPDATE, which waits for the writers that are under way. So a write is either committed before the freeze, and in its
-- export, or refused. (A transaction in REPEATABLE READ that began before the freeze fails to serialize instead.)

-- Whether nothing may be written for the account. The purge itself says whom it purges: SET LOCAL tenure.purging = ID.
-- That is a guard against accidents, not against those who may write into these tables anyway.
CREATE OR REPLACE FUNCTION tenure.is_fenced(account uuid, status text) RETURNS boolean LANGUAGE sql STABLE
RETURN status <> 'active' AND current_setting('tenure.purging', true) IS DISTINCT FROM account::text;

-- What `ref` becomes when its account is purged: who has the ref finds the tombstone, which does not say it. What has
-- become that, stays it.
CREATE OR REPLACE FUNCTION tenure.purged_ref(ref text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN ref ~ '^purged:[0-9a-f]{64}$' THEN ref
            ELSE 'purged:' || encode(sha256(convert_to(ref, 'UTF8')), 'hex') END;

-- Refuse, if one of the accounts is fenced; hold the others open until the transaction ends. A key that is no account's
-- is no concern of Tenure's.
CREATE OR REPLACE FUNCTION tenure.refuse_fenced(refs text[], ids uuid[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
BEGIN
    FOR account IN
        SELECT id, status FROM tenure.accounts
         WHERE id = ANY (ids) OR ref = ANY (refs || ARRAY(SELECT tenure.purged_ref(each) FROM unnest(refs) AS each))
         ORDER BY id FOR KEY SHARE
    LOOP
        IF tenure.is_fenced(account.id, account.status) THEN
            RAISE EXCEPTION 'account % is %: nothing is written for it any more', account.id, account.status
                USING ERRCODE = 'integrity_constraint_violation', HINT = 'Its contract was terminated.';
        END IF;
    END LOOP;
END $$;

-- The trigger that `tenure datamap fence` puts on the application's tables. Its arguments are a query for the keys of the
-- accounts whose rows are in tenure_written, and whether these are `ref` or `id`. The query runs with the rights of
-- whoever writes.
CREATE OR REPLACE FUNCTION tenure.fence() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
BEGIN
    EXECUTE format('SELECT array_agg(key) FROM (%s) AS written (key) WHERE key IS NOT NULL', TG_ARGV[0]) INTO keys;
    IF TG_ARGV[1] = 'ref' THEN
        PERFORM tenure.refuse_fenced(keys, NULL);
    ELSE
        PERFORM tenure.refuse_fenced(NULL, keys::uuid[]);
    END IF;
    RETURN NULL;
END $$;

-- A change of status waits for the writers under way, and for those who log in. The account's row is the only lock that
-- writers and a freeze have in common: with a second one, taken in another order, they would wait for each other.
CREATE OR REPLACE FUNCTION tenure.await_writers() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM tenure.accounts WHERE id = NEW.id FOR UPDATE;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER await_writers BEFORE UPDATE OF status ON tenure.accounts FOR EACH ROW
    WHEN (OLD.status = 'active' AND NEW.status <> 'active') EXECUTE FUNCTION tenure.await_writers();
