-- Work tables tell the relay that rows came in: one notification a statement and transaction, however many the rows.
--
-- NOTIFY holds a lock of the whole cluster from before COMMIT to its end, so transactions that all notify commit one
-- after the other. A transaction that meets another one about to notify for the same table therefore leaves it to that
-- one. Should it commit later, the relay finds its rows by polling, within a tenth of a second.

CREATE OR REPLACE FUNCTION tenure.announce_work() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtextextended('tenure.announce_work', TG_RELID::bigint)) THEN
        PERFORM pg_notify('tenure_work', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    work_table regclass;
BEGIN
    FOR work_table IN
        SELECT attrelid FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'tenure'::regnamespace AND relkind IN ('r', 'p') AND attname = 'claim_token'
           -- To put one up again would make writers wait.
           AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = attrelid AND tgname = 'announce_work')
    LOOP
        EXECUTE format('CREATE TRIGGER announce_work AFTER INSERT ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION tenure.announce_work()', work_table);
    END LOOP;
END $$;
