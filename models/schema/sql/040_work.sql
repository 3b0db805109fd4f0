-- Work tables tell the relay that rows came in: one notification a statement and transaction, however many the rows.

CREATE OR REPLACE FUNCTION tenure.announce_work() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('tenure_work', TG_TABLE_NAME);
    RETURN NULL;
END $$;

DO $$
DECLARE
    work_table regclass;
BEGIN
    FOR work_table IN
        SELECT attrelid FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'tenure'::regnamespace AND relkind IN ('r', 'p') AND attname = 'claim_token'
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER announce_work AFTER INSERT ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION tenure.announce_work()', work_table);
    END LOOP;
END $$;
