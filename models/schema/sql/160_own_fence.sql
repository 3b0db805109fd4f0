-- The fence on Tenure's own tables (T9). Which statements it stands before is made from the data map when a database is
-- migrated (models/data_map/fence.py); these are the functions that it calls. Unlike tenure.fence they know where the
-- account is, so their queries are planned once.

-- Refuse, if one of these accounts is fenced; hold the others open until the transaction ends.
CREATE OR REPLACE FUNCTION tenure.refuse_fenced_ids(ids uuid[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
BEGIN
    SELECT locked.id, locked.status INTO account
      FROM (SELECT id, status FROM tenure.accounts WHERE id = ANY (ids) ORDER BY id FOR KEY SHARE) AS locked
     WHERE tenure.is_fenced(locked.id, locked.status) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'account % is %: nothing is written for it any more', account.id, account.status
            USING ERRCODE = 'integrity_constraint_violation', HINT = 'Its contract was terminated.';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tenure.fence_own() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenure.refuse_fenced_ids(
        ARRAY(SELECT DISTINCT account_id FROM tenure_written WHERE account_id IS NOT NULL));
    RETURN NULL;
END $$;

-- For an UPDATE, which may move a row from one account to another.
CREATE OR REPLACE FUNCTION tenure.fence_own_update() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenure.refuse_fenced_ids(
        ARRAY(SELECT account_id FROM tenure_written WHERE account_id IS NOT NULL
               UNION SELECT account_id FROM tenure_before WHERE account_id IS NOT NULL));
    RETURN NULL;
END $$;

-- The account's own row: of one whose contract is over only Tenure changes anything.
CREATE OR REPLACE FUNCTION tenure.fence_account() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tenure.is_fenced(OLD.id, OLD.status) THEN
        RAISE EXCEPTION 'account % is %: nothing is written for it any more', OLD.id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation', HINT = 'Its contract was terminated.';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

-- Before the others, by its name: they would ask more of the row.
CREATE OR REPLACE TRIGGER a_fence BEFORE UPDATE OR DELETE ON tenure.accounts FOR EACH ROW
    WHEN (OLD.status <> 'active') EXECUTE FUNCTION tenure.fence_account();
