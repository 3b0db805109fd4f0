-- What runs with its owner's rights is for those to whom it is granted (W22). PostgreSQL would let everybody call it who
-- may use the schema, also a role that is to see no more than a table of the application behind our fence: that is all
-- that stays open.
DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT p.oid FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = 'tenure'::regnamespace AND p.prosecdef
           AND p.proname NOT IN ('refuse_fenced', 'refuse_fenced_ids')
           AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0)
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', routine);
    END LOOP;
END $$;
