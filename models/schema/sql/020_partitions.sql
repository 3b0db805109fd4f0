-- A trigger of a statement does not see what is written straight into a partition, so each partition has those of the
-- fence (T9), too. What is written through the whole table is looked at once, by the trigger of that.

-- Put before a partition the fence that stands before the whole.
CREATE OR REPLACE FUNCTION tenure.fence_partition(part regclass, whole regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definition text;
BEGIN
    FOR definition IN
        SELECT replace(pg_get_triggerdef(oid), format(' ON %s ', whole), format(' ON %s ', part)) FROM pg_trigger
         WHERE tgrelid = whole AND tgname LIKE 'fence\_%'
        -- One that is there already is left alone: to put it up again would make writers wait.
        EXCEPT SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = part
    LOOP
        EXECUTE replace(definition, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER');
    END LOOP;
END $$;
