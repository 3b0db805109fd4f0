-- Usage events, partitioned by the month in which they occurred (UTC). They are kept as long as the contract (P6.1), so
-- partitions are made and never dropped; an account's events go by its primary key, in each of them.

-- Events whose month has no partition: none was made ahead, or they were imported from before.
CREATE TABLE IF NOT EXISTS tenure.usage_events_default PARTITION OF tenure.usage_events DEFAULT;

-- Make the partitions from the month of `since` until three months after this one; how many were made.
--
-- Before an import of history, call it with the oldest event's time. A month of which the default partition already
-- holds events stays there: it works as well, only not as finely. While a partition is attached, the default one is
-- read under a lock, which is nothing while it is empty. No lock is waited for long; 55P03 (lock_not_available) says
-- that the next tick may try.
CREATE OR REPLACE FUNCTION tenure.make_usage_partitions(since timestamptz DEFAULT now()) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
DECLARE
    month timestamptz := date_trunc('month', since);
    horizon CONSTANT timestamptz := date_trunc('month', now()) + interval '3 months';
    name text;
    made int := 0;
BEGIN
    IF since IS NULL OR since < '1990-01-01' THEN
        RAISE EXCEPTION 'usage before 1990 is not kept, and % is', coalesce(since::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('tenure.make_usage_partitions', 0));
    WHILE month <= horizon LOOP
        name := 'usage_events_' || to_char(month, 'YYYYMM');
        IF to_regclass('tenure.' || name) IS NULL AND NOT EXISTS (
            SELECT FROM tenure.usage_events_default
             WHERE occurred_at >= month AND occurred_at < month + interval '1 month')
        THEN
            -- Made apart and then attached: unlike CREATE ... PARTITION OF, that lets readers and writers pass.
            EXECUTE format('CREATE TABLE tenure.%I (LIKE tenure.usage_events INCLUDING ALL)', name);
            EXECUTE format('ALTER TABLE tenure.usage_events ATTACH PARTITION tenure.%I FOR VALUES FROM (%L) TO (%L)',
                           name, month, month + interval '1 month');
            PERFORM tenure.fence_partition(format('tenure.%I', name)::regclass, 'tenure.usage_events');
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END $$;

DO $$
BEGIN
    PERFORM tenure.make_usage_partitions();
EXCEPTION WHEN lock_not_available THEN
    RAISE NOTICE 'The table of usage events is busy; the next tick of usage.partition makes its partitions.';
END $$;
