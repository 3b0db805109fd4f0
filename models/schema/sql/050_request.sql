-- The way in by SQL, in the application's own transaction and from any language (W5):
--
--     SELECT tenure.request('statements.send', '{"account": "acme"}', 'order-4711');
--
-- Every other way in ends here too, so that there is one opinion on what may be asked. What is wrong is said at once,
-- as an error in a sentence, and nothing is stored. The same kind and dedupe key again gives the same request.
CREATE OR REPLACE FUNCTION tenure.request(
    kind text, args jsonb DEFAULT '{}', dedupe_key text DEFAULT NULL, source text DEFAULT 'sql'
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    known jsonb;
    known_version int;
    known_ways text[];
    caller text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    field text;
    rule jsonb;
    value jsonb;
    fits boolean;
    the_account uuid;
    the_termination uuid;
    status text;
    earlier record;
    made uuid;
BEGIN
    SELECT k.fields, k.version, k.ways INTO known, known_version, known_ways FROM tenure.request_kinds AS k WHERE k.kind = request.kind;
    IF known IS NULL THEN
        RAISE EXCEPTION 'there is no request "%"', left(coalesce(kind, 'NULL'), 80) USING ERRCODE = 'invalid_parameter_value',
            HINT = (SELECT 'One can ask for ' || coalesce(string_agg(k.kind, ', ' ORDER BY k.kind), 'nothing before tenure migrate')
                             || '.' FROM tenure.request_kinds AS k);
    END IF;
    IF args IS NULL OR jsonb_typeof(args) <> 'object' THEN
        RAISE EXCEPTION 'the arguments of "%" must be a JSON object, not %', kind, coalesce(jsonb_typeof(args), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF args ? 'version' THEN
        IF args -> 'version' <> to_jsonb(known_version) THEN
            RAISE EXCEPTION 'version % of "%" is not known here', left((args -> 'version')::text, 20), kind
                USING ERRCODE = 'invalid_parameter_value', HINT = format('This installation knows version %s.', known_version);
        END IF;
        args := args - 'version';
    END IF;
    IF length(dedupe_key) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'a dedupe key has 1 to 200 characters, this one has %', length(dedupe_key)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF source IS NULL OR source NOT IN ('sql', 'queue', 'operator') THEN
        RAISE EXCEPTION 'the source of a request is sql, queue or operator' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- This function runs with its owner's rights; what counts is the role that calls it.
    IF source <> 'sql' AND NOT has_table_privilege(caller, 'tenure.job_requests', 'INSERT') THEN
        RAISE EXCEPTION 'the role % can ask in its own name only', caller USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave out the source: a request by SQL has the source sql.';
    END IF;
    IF NOT source = ANY (known_ways) THEN
        RAISE EXCEPTION '"%" cannot be asked for by %', kind,
            CASE source WHEN 'queue' THEN 'a message' WHEN 'sql' THEN 'SQL' ELSE 'an operator' END
            USING ERRCODE = 'invalid_parameter_value',
            HINT = CASE source WHEN 'queue' THEN 'Call tenure.request in SQL: whoever may write to the broker could ask for it.'
                               ELSE 'Ask by ' || array_to_string(known_ways, ' or ') || '.' END;
    END IF;
    FOR field IN SELECT jsonb_object_keys(args) LOOP
        IF NOT known ? field THEN
            RAISE EXCEPTION '"%" has no argument "%"', kind, left(field, 80) USING ERRCODE = 'invalid_parameter_value',
                HINT = (SELECT 'It takes ' || coalesce(string_agg(k, ', ' ORDER BY k), 'none') || '.' FROM jsonb_object_keys(known) AS k);
        END IF;
    END LOOP;
    FOR field, rule IN SELECT * FROM jsonb_each(known) LOOP
        value := args -> field;
        IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
            IF (rule ->> 'required')::boolean THEN
                RAISE EXCEPTION '"%" needs the argument "%"', kind, field USING ERRCODE = 'invalid_parameter_value';
            END IF;
            CONTINUE;
        END IF;
        fits := CASE rule ->> 'type'
            WHEN 'integer' THEN jsonb_typeof(value) = 'number' AND value::text ~ '^-?\d{1,18}$'
            WHEN 'boolean' THEN jsonb_typeof(value) = 'boolean'
            WHEN 'date' THEN jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^\d{4}-\d\d-\d\d$'
                             AND pg_input_is_valid(value #>> '{}', 'date')
            WHEN 'uuid' THEN jsonb_typeof(value) = 'string' AND pg_input_is_valid(value #>> '{}', 'uuid')
            ELSE jsonb_typeof(value) = 'string' AND length(value #>> '{}') BETWEEN 1 AND 200
        END;
        IF NOT fits THEN
            RAISE EXCEPTION 'the argument "%" of "%" must be %', field, kind,
                CASE rule ->> 'type' WHEN 'integer' THEN 'a whole number' WHEN 'boolean' THEN 'true or false'
                     WHEN 'date' THEN 'a date as YYYY-MM-DD' WHEN 'uuid' THEN 'a UUID' WHEN 'account' THEN 'the ref of an account'
                     WHEN 'termination' THEN 'the ref of an account'
                     ELSE 'text of 1 to 200 characters' END
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF rule ->> 'type' = 'account' THEN
            SELECT a.id, a.status INTO the_account, status FROM tenure.accounts AS a
             WHERE a.ref IN (value #>> '{}', tenure.purged_ref(value #>> '{}')) ORDER BY a.status LIMIT 1;
            IF status <> 'active' THEN
                -- Named, so that whoever passes on messages can tell this from a wrong one.
                RAISE EXCEPTION 'the account that "%" names is %', kind, status
                    USING ERRCODE = 'invalid_parameter_value', CONSTRAINT = 'account_ended',
                    HINT = 'Its contract was terminated.';
            ELSIF the_account IS NULL THEN
                RAISE EXCEPTION 'the account that "%" names is not known', kind
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the ref of an active row of tenure.accounts.';
            END IF;
        ELSIF rule ->> 'type' = 'termination' THEN
            -- For an account that is frozen, too. So the request is none of the account's data: those are exported, and
            -- it comes too late for that. It keeps the termination's id, and not the ref.
            SELECT t.id, coalesce(t.stage_before, t.stage) INTO the_termination, status
              FROM tenure.terminations AS t JOIN tenure.accounts AS a ON a.id = t.account_id
             WHERE a.ref IN (value #>> '{}', tenure.purged_ref(value #>> '{}')) AND t.stage <> 'cancelled';
            IF the_termination IS NULL THEN
                RAISE EXCEPTION 'no termination is under way of the account that "%" names', kind
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the ref of an account that is being terminated.';
            ELSIF status IN ('purging', 'verifying', 'certified') THEN
                RAISE EXCEPTION 'termination % is %: it cannot be taken back any more', the_termination, status
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Its data are being deleted, or are gone.';
            END IF;
            args := args - field || jsonb_build_object('termination', the_termination);
        END IF;
    END LOOP;

    -- A conflicting insert that is still open is waited for, so that the second of two racing callers sees the first.
    INSERT INTO tenure.job_requests (kind, args, account_id, dedupe_key, source)
    VALUES (kind, args, the_account, dedupe_key, source)
    ON CONFLICT ON CONSTRAINT uq_job_requests_kind_dedupe_key DO NOTHING RETURNING id INTO made;
    IF made IS NULL THEN
        SELECT r.id, r.args INTO earlier FROM tenure.job_requests AS r
         WHERE r.kind = request.kind AND r.dedupe_key = request.dedupe_key;
        IF earlier.args IS DISTINCT FROM args THEN
            RAISE EXCEPTION 'the dedupe key of this "%" was used for other arguments', kind USING ERRCODE = 'unique_violation',
                HINT = 'Use a new key for a new request, or the same arguments for the same one.';
        END IF;
        made := earlier.id;
    END IF;
    RETURN made;
END $$;
