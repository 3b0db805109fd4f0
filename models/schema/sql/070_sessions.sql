-- Sessions (P9.3, S1 to S4): one table, partitioned by the time that is in each id, so that a look-up by id reads one
-- partition, and what is over is emptied by the partition instead of deleted row by row.
--
-- A partition holds 45 minutes, counted from midnight UTC: 32 make a day, and about 36 stand at a time. It can be
-- emptied 24 hours after its end, when the first of its sessions has been over for 45 minutes: with hours, that would be
-- a whole one, and nothing left of the hour that S2 gives for tick, retries and work.

-- What a reader may see: a session ends in the very second that it is 24 hours old, swept or not.
CREATE OR REPLACE VIEW tenure.live_sessions AS
    SELECT id, account_id, contact_id, secret_sha256, ip, user_agent, created_at FROM tenure.sessions
     WHERE created_at > statement_timestamp() - interval '24 hours';

-- Sessions whose time has no partition, since no sweep made one ahead (S3).
CREATE TABLE IF NOT EXISTS tenure.sessions_default PARTITION OF tenure.sessions DEFAULT;

-- The lowest id that can be drawn at `instant`, which counts in milliseconds (RFC 9562, version 7).
CREATE OR REPLACE FUNCTION tenure.session_id_at(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;

-- All sessions with a lower id are over. Of the same millisecond as `statement_timestamp() - 24 hours` they are, too.
CREATE OR REPLACE FUNCTION tenure.oldest_live_session_id() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN tenure.session_id_at(statement_timestamp() - interval '24 hours' + interval '1 millisecond');

-- The beginning of the 45 minutes in which `instant` lies.
CREATE OR REPLACE FUNCTION tenure.session_period(instant timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN date_bin('45 minutes', instant, '2000-01-01 00:00:00+00');

-- The partitions but for the default one, and the time that each holds. The bounds of other tables' partitions, which
-- the planner may look at before it leaves them out, are no UUIDs.
CREATE OR REPLACE VIEW tenure.session_partitions AS
    SELECT name, uuid_extract_timestamp(bounds[1]::uuid) AS since, uuid_extract_timestamp(bounds[2]::uuid) AS until
      FROM (SELECT relname AS name,
                   regexp_match(pg_get_expr(relpartbound, oid),
                                $$FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)$$) AS bounds
              FROM pg_inherits JOIN pg_class ON oid = inhrelid
             WHERE inhparent = 'tenure.sessions'::regclass) AS partition
     WHERE bounds IS NOT NULL;

-- A clock that is not the database's makes sessions that last longer. Ids are drawn by the column's default; one that
-- was brought along may be older, which ends it earlier, and is not taken where it is ahead. PostgreSQL's own ids may be
-- ahead of its clock after that was set back a little.
CREATE OR REPLACE FUNCTION tenure.refuse_session_id() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the id of this session says %, which is in the future', uuid_extract_timestamp(NEW.id)
        USING ERRCODE = 'check_violation', HINT = 'Leave the id to the database: its default is uuidv7().';
END $$;

CREATE OR REPLACE TRIGGER refuse_session_id BEFORE INSERT ON tenure.sessions FOR EACH ROW
    WHEN (uuid_extract_timestamp(NEW.id) > clock_timestamp() + interval '5 minutes')
    EXECUTE FUNCTION tenure.refuse_session_id();

-- The web tier's way in: a session for an active account, in the caller's transaction. `secret_sha256` is the SHA-256
-- of at least 32 random bytes that the cookie holds besides the id.
CREATE OR REPLACE FUNCTION tenure.create_session(
    account text, secret_sha256 bytea, contact uuid DEFAULT NULL, ip text DEFAULT NULL, user_agent text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_account uuid;
    account_status text;
    made uuid;
BEGIN
    IF octet_length(secret_sha256) IS DISTINCT FROM 32 THEN
        RAISE EXCEPTION 'the SHA-256 of a session''s secret has 32 bytes, not %', coalesce(octet_length(secret_sha256)::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Beside a transaction that freezes the account there are two outcomes: it waits for ours and ends our session, or
    -- we wait for it and refuse. Who writes into its ledger hinders nobody here.
    SELECT a.id, a.status INTO the_account, account_status FROM tenure.accounts AS a WHERE a.ref = account FOR KEY SHARE;
    IF account_status IS DISTINCT FROM 'active' THEN
        RAISE EXCEPTION 'the account that a session was asked for is %', coalesce(account_status, 'not known')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the ref of an active row of tenure.accounts.';
    END IF;
    IF contact IS NOT NULL AND NOT EXISTS (
        SELECT FROM tenure.contacts AS c WHERE c.id = contact AND c.account_id = the_account)
    THEN
        RAISE EXCEPTION 'the contact that a session was asked for is none of this account'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the id of a row of tenure.contacts, or none.';
    END IF;
    INSERT INTO tenure.sessions (account_id, contact_id, secret_sha256, ip, user_agent)
    VALUES (the_account, contact, secret_sha256, left(ip, 100), left(user_agent, 1000)) RETURNING id INTO made;
    RETURN made;
END $$;

-- The web tier's way out: whether there was such a session. A held account's goes to tenure.held_sessions, as wherever
-- one ends: it cannot be read from that moment on, and is still there (S6).
CREATE OR REPLACE FUNCTION tenure.revoke_session(session uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended tenure.sessions;
BEGIN
    DELETE FROM tenure.sessions WHERE id = session RETURNING * INTO ended;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT tenure.free_to_delete(ended.account_id) THEN
        INSERT INTO tenure.held_sessions (id, account_id, contact_id, ip, user_agent)
        VALUES (ended.id, ended.account_id, ended.contact_id, ended.ip, ended.user_agent);
    END IF;
    RETURN true;
END $$;

-- End all sessions of an account; how many there were.
CREATE OR REPLACE FUNCTION tenure.end_sessions(account uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free CONSTANT boolean := tenure.free_to_delete(account);
    gone bigint;
BEGIN
    WITH ended AS (DELETE FROM tenure.sessions WHERE account_id = account RETURNING *),
         kept AS (INSERT INTO tenure.held_sessions (id, account_id, contact_id, ip, user_agent)
                  SELECT id, account_id, contact_id, ip, user_agent FROM ended WHERE NOT free)
    SELECT count(*) INTO gone FROM ended;
    RETURN gone;
END $$;

-- A frozen account's sessions go at once, in the transaction that freezes it (S6).
CREATE OR REPLACE FUNCTION tenure.end_sessions_of_account() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenure.end_sessions(NEW.id);
    -- Those that other programs keep: the relay wakes the sweep.
    PERFORM pg_notify('tenure_work', 'sessions');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER end_sessions_of_account AFTER UPDATE OF status ON tenure.accounts FOR EACH ROW
    WHEN (NEW.status <> 'active') EXECUTE FUNCTION tenure.end_sessions_of_account();

-- What the sweep does. The functions run with their owner's rights, since a worker owns no table, and go by the
-- database's clock alone, so whoever may call them can end nothing that is not over. No lock is waited for long: a
-- DROP in the queue lets nobody past (S4). 55P03 (lock_not_available) says that the next sweep may try.

-- Make a partition for the 45 minutes in which `instant` lies; its name.
CREATE OR REPLACE FUNCTION tenure.make_session_partition(instant timestamptz) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since CONSTANT timestamptz := tenure.session_period(instant);
    name CONSTANT text := 'sessions_' || to_char(since AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MI');
BEGIN
    -- Made apart and then attached: unlike CREATE ... PARTITION OF, that lets readers and writers of the table pass.
    EXECUTE format('CREATE TABLE tenure.%I (LIKE tenure.sessions INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE tenure.sessions ATTACH PARTITION tenure.%I FOR VALUES FROM (%L) TO (%L)', name,
                   tenure.session_id_at(since), tenure.session_id_at(since + interval '45 minutes'));
    PERFORM tenure.fence_partition(format('tenure.%I', name)::regclass, 'tenure.sessions');
    RETURN name;
END $$;

-- Make partitions ahead of time, for now and two hours and a quarter more; how many.
--
-- While the default partition holds sessions, a partition for their time cannot be made, and for any other all of them
-- are read under a lock. So they stay until they are over, and partitions are then made, and they read, once for all
-- of that time.
CREATE OR REPLACE FUNCTION tenure.make_session_partitions() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    next timestamptz := tenure.session_period(statement_timestamp());
    horizon timestamptz := statement_timestamp() + interval '135 minutes';
    latest uuid;
    made int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tenure.make_session_partitions', 0)) THEN
        RETURN 0;
    END IF;
    SELECT greatest(next, max(until)) INTO next FROM tenure.session_partitions;
    IF next > horizon THEN
        RETURN 0;
    END IF;
    -- In this order, as every other statement takes them; of the table itself readers and writers go on.
    LOCK TABLE ONLY tenure.sessions IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE tenure.sessions_default IN ACCESS EXCLUSIVE MODE;
    SELECT id INTO latest FROM tenure.sessions_default ORDER BY id DESC LIMIT 1;
    IF latest IS NOT NULL THEN
        next := greatest(next, tenure.session_period(uuid_extract_timestamp(latest)) + interval '45 minutes');
        horizon := statement_timestamp() + interval '27 hours';
        -- With this PostgreSQL knows that no session in there belongs into one of the new partitions.
        EXECUTE format('ALTER TABLE tenure.sessions_default ADD CONSTRAINT earlier CHECK (id IS NOT NULL AND id < %L)',
                       tenure.session_id_at(next));
    END IF;
    WHILE next <= horizon LOOP
        PERFORM tenure.make_session_partition(next);
        next := next + interval '45 minutes';
        made := made + 1;
    END LOOP;
    ALTER TABLE tenure.sessions_default DROP CONSTRAINT IF EXISTS earlier;
    RETURN made;
END $$;

-- Empty a partition that is over as a whole; how many sessions went. Those of held accounts are brought to safety first:
-- TRUNCATE knows no exceptions (S6).
CREATE OR REPLACE FUNCTION tenure.empty_session_partition(partition text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
-- To count a large one takes a moment, and not more than one of the machine's processors.
SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
    gone bigint := 0;
BEGIN
    PERFORM FROM tenure.session_partitions
      WHERE name = partition AND until <= statement_timestamp() - interval '24 hours';
    IF FOUND THEN
        PERFORM tenure.await_holds();
        -- Nobody but who looks for a session that is over waits for this: of the whole table nothing is locked.
        EXECUTE format('LOCK TABLE tenure.%I IN ACCESS EXCLUSIVE MODE', partition);
        EXECUTE format('SELECT count(*) FROM tenure.%I', partition) INTO gone;
        IF gone > 0 THEN
            EXECUTE format(
                'INSERT INTO tenure.held_sessions (id, account_id, contact_id, ip, user_agent)
                 SELECT id, account_id, contact_id, ip, user_agent FROM tenure.%I WHERE account_id IN (
                     SELECT hold.account_id FROM tenure.legal_holds AS hold WHERE hold.released_at IS NULL)', partition);
            EXECUTE format('TRUNCATE tenure.%I', partition);
        END IF;
    END IF;
    RETURN gone;
EXCEPTION WHEN undefined_table THEN
    RETURN 0;  -- another sweep has dropped it
END $$;

-- Drop a partition that was emptied; whether that could be done now. The whole table is locked for the moment of it, so
-- it is not waited for at all: any moment in which nobody holds the table will do.
CREATE OR REPLACE FUNCTION tenure.drop_session_partition(partition text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    inhabited boolean;
BEGIN
    PERFORM FROM tenure.session_partitions
      WHERE name = partition AND until <= statement_timestamp() - interval '24 hours';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY tenure.sessions IN ACCESS EXCLUSIVE MODE NOWAIT;
    EXECUTE format('LOCK TABLE tenure.%I IN ACCESS EXCLUSIVE MODE NOWAIT', partition);
    EXECUTE format('SELECT EXISTS (SELECT FROM tenure.%I)', partition) INTO inhabited;
    IF inhabited THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE tenure.%I', partition);
    RETURN true;
EXCEPTION WHEN undefined_table OR lock_not_available THEN
    RETURN false;
END $$;

-- Delete up to `batch` sessions that are over from one partition, beginning at the id `since`: from the default one, and
-- from one that somebody reads for so long that it cannot be emptied. How many went, and the last of them.
CREATE OR REPLACE FUNCTION tenure.delete_ended_sessions(
    partition text, batch int, since uuid, OUT gone bigint, OUT last uuid
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    gone := 0;
    PERFORM FROM pg_inherits JOIN pg_class ON oid = inhrelid
      WHERE inhparent = 'tenure.sessions'::regclass AND relname = partition;
    IF FOUND THEN
        PERFORM tenure.await_holds();
        EXECUTE format(
            'WITH ended AS (
                 DELETE FROM tenure.%1$I WHERE id = ANY (ARRAY(
                     SELECT id FROM tenure.%1$I WHERE id >= $1 AND id < tenure.oldest_live_session_id()
                      ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))
                 RETURNING id, account_id, contact_id, ip, user_agent),
             kept AS (
                 INSERT INTO tenure.held_sessions (id, account_id, contact_id, ip, user_agent)
                 SELECT id, account_id, contact_id, ip, user_agent FROM ended WHERE account_id IN (
                     SELECT hold.account_id FROM tenure.legal_holds AS hold WHERE hold.released_at IS NULL))
             SELECT count(*), (array_agg(id ORDER BY id DESC))[1] FROM ended', partition)
           INTO gone, last USING since, batch;
    END IF;
EXCEPTION WHEN undefined_table THEN
    gone := 0;
END $$;

-- Delete up to `batch` sessions that holds have kept and that no hold names any more; how many. What a termination has
-- exported goes with its purge, which counts it.
CREATE OR REPLACE FUNCTION tenure.delete_released_sessions(batch int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    -- By account, so that what is still held is not gone through again and again.
    released uuid[];
    gone bigint;
    keys_gone bigint;
BEGIN
    PERFORM tenure.await_holds();
    -- From each account of which something is held to the next by the index: holds of long ago are not read.
    released := ARRAY(
        WITH RECURSIVE kept AS (
            (SELECT account_id FROM tenure.held_sessions ORDER BY account_id LIMIT 1)
            UNION ALL
            SELECT (SELECT account_id FROM tenure.held_sessions AS later
                     WHERE later.account_id > kept.account_id ORDER BY account_id LIMIT 1)
              FROM kept WHERE kept.account_id IS NOT NULL
        ), kept_keys AS (
            (SELECT account_id FROM tenure.held_session_keys ORDER BY account_id LIMIT 1)
            UNION ALL
            SELECT (SELECT account_id FROM tenure.held_session_keys AS later
                     WHERE later.account_id > kept_keys.account_id ORDER BY account_id LIMIT 1)
              FROM kept_keys WHERE kept_keys.account_id IS NOT NULL
        )
        SELECT account_id FROM (TABLE kept UNION TABLE kept_keys) AS account
         WHERE EXISTS (SELECT FROM tenure.legal_holds AS hold WHERE hold.account_id = account.account_id)
           AND NOT EXISTS (SELECT FROM tenure.legal_holds AS hold
                            WHERE hold.account_id = account.account_id AND hold.released_at IS NULL)
           AND NOT EXISTS (SELECT FROM tenure.terminations AS ending
                            WHERE ending.account_id = account.account_id
                              AND ending.stage NOT IN ('cancelled', 'certified')));
    DELETE FROM tenure.held_sessions WHERE id = ANY (ARRAY(
        SELECT id FROM tenure.held_sessions WHERE account_id = ANY (released) LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM tenure.held_session_keys WHERE id = ANY (ARRAY(
        SELECT id FROM tenure.held_session_keys WHERE account_id = ANY (released) LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS keys_gone = ROW_COUNT;
    RETURN greatest(gone, keys_gone);
END $$;

-- The sessions of today have a partition from the beginning. Where that has to be waited for, the sweep does it.
DO $$
BEGIN
    PERFORM tenure.make_session_partitions();
EXCEPTION WHEN lock_not_available THEN
    RAISE NOTICE 'The partitions of tenure.sessions are in use: the next sweep makes what is missing.';
END $$;
