-- Details that change are confirmed (P8.1): what changed is written down in the transaction that changes it, with the
-- request to tell those whom it concerns. A transaction that rolls back tells nobody.

CREATE OR REPLACE FUNCTION tenure.note_detail_change() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb := to_jsonb(OLD);
    after jsonb := to_jsonb(NEW);
    changed jsonb;
    the_account uuid;
    the_contact uuid;
    made uuid;
BEGIN
    IF TG_TABLE_NAME = 'contacts' THEN
        the_account := NEW.account_id;
        the_contact := NEW.id;
    ELSE
        the_account := NEW.id;
    END IF;
    -- The trigger's arguments: pairs of a column and the name that the message has for it. An array becomes one line.
    SELECT jsonb_agg(jsonb_build_object(
               'detail', TG_ARGV[n + 1],
               'before', tenure.one_line(before -> TG_ARGV[n]),
               'after', tenure.one_line(after -> TG_ARGV[n])) ORDER BY n)
      INTO changed
      FROM generate_series(0, TG_NARGS - 2, 2) AS n
     WHERE before -> TG_ARGV[n] IS DISTINCT FROM after -> TG_ARGV[n];
    IF changed IS NULL OR NOT EXISTS (SELECT FROM tenure.accounts WHERE id = the_account AND status = 'active') THEN
        RETURN NULL;
    END IF;
    INSERT INTO tenure.detail_changes (account_id, contact_id, changes)
    VALUES (the_account, the_contact, changed) RETURNING id INTO made;
    INSERT INTO tenure.job_requests (kind, args, account_id, dedupe_key)
    VALUES ('details.confirm_change', jsonb_build_object('change', made), the_account, 'change:' || made);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tenure.one_line(value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE jsonb_typeof(value)
    WHEN 'array' THEN (SELECT coalesce(string_agg(part, ', ' ORDER BY n), '')
                         FROM jsonb_array_elements_text(value) WITH ORDINALITY AS parts (part, n))
    ELSE coalesce(value #>> '{}', '')
END;

CREATE OR REPLACE TRIGGER note_detail_change AFTER UPDATE OF name, email, language, time_zone ON tenure.contacts
    FOR EACH ROW EXECUTE FUNCTION tenure.note_detail_change(
        'name', 'contact_name', 'email', 'email', 'language', 'language', 'time_zone', 'time_zone');

CREATE OR REPLACE TRIGGER note_detail_change AFTER UPDATE OF name, address, tax_id, billing_day ON tenure.accounts
    FOR EACH ROW EXECUTE FUNCTION tenure.note_detail_change(
        'name', 'account_name', 'address', 'address', 'tax_id', 'tax_id', 'billing_day', 'billing_day');
