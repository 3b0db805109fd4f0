-- Disclosures that a law requires (P4, T29): asked for by one, approved by two others, and never forgotten.

CREATE OR REPLACE FUNCTION tenure.guard_disclosure_event() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked tenure.disclosures;
    approvals int;
BEGIN
    -- One after the other, so that what is counted is all there is.
    SELECT d.* INTO asked FROM tenure.disclosures AS d WHERE d.id = NEW.disclosure_id FOR UPDATE;
    IF asked.id IS NULL THEN
        RAISE EXCEPTION 'there is no disclosure %', NEW.disclosure_id USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NEW.action = 'approved' AND lower(NEW.person) = lower(asked.asked_by) THEN
        RAISE EXCEPTION 'who asked for a disclosure does not approve it' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Two others have to.';
    END IF;
    IF NEW.action <> 'refused' AND EXISTS (
        SELECT FROM tenure.disclosure_events AS e WHERE e.disclosure_id = asked.id AND e.action = 'refused')
    THEN
        RAISE EXCEPTION 'the disclosure was refused' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'What is to be disclosed all the same is asked for anew.';
    END IF;
    SELECT count(DISTINCT lower(e.person)) INTO approvals FROM tenure.disclosure_events AS e
     WHERE e.disclosure_id = asked.id AND e.action = 'approved';
    IF NEW.action = 'made' AND approvals < 2 THEN
        RAISE EXCEPTION 'the disclosure is approved by %, and two have to approve it', approvals
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER guard BEFORE INSERT ON tenure.disclosure_events
    FOR EACH ROW EXECUTE FUNCTION tenure.guard_disclosure_event();

CREATE OR REPLACE FUNCTION tenure.keep_disclosure() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'what was noted of a disclosure stays' USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE OR REPLACE TRIGGER keep BEFORE UPDATE OR DELETE ON tenure.disclosures
    FOR EACH ROW EXECUTE FUNCTION tenure.keep_disclosure();
CREATE OR REPLACE TRIGGER keep BEFORE UPDATE OR DELETE ON tenure.disclosure_events
    FOR EACH ROW EXECUTE FUNCTION tenure.keep_disclosure();

-- Ask for a disclosure of the account of this ref; its id.
CREATE OR REPLACE FUNCTION tenure.ask_disclosure(account text, reference text, legal_basis text, asked_by text)
RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    the_account uuid;
    made uuid;
BEGIN
    SELECT a.id INTO the_account FROM tenure.accounts AS a WHERE a.ref = account AND a.status <> 'purged';
    IF the_account IS NULL THEN
        RAISE EXCEPTION 'the account that a disclosure was asked for is not known, or its data are erased'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the ref of a row of tenure.accounts.';
    END IF;
    INSERT INTO tenure.disclosures (account_id, reference, legal_basis, asked_by)
    VALUES (the_account, btrim(ask_disclosure.reference), btrim(ask_disclosure.legal_basis),
            btrim(ask_disclosure.asked_by)) RETURNING id INTO made;
    RETURN made;
END $$;

-- Note what somebody did about it; how many have approved it now.
CREATE OR REPLACE FUNCTION tenure.note_disclosure(
    disclosure uuid, action text, person text, manifest_sha256 bytea DEFAULT NULL
) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tenure.disclosure_events (disclosure_id, action, person, manifest_sha256)
    VALUES (disclosure, note_disclosure.action, btrim(note_disclosure.person), note_disclosure.manifest_sha256)
    ON CONFLICT DO NOTHING;
    RETURN (SELECT count(DISTINCT lower(e.person)) FROM tenure.disclosure_events AS e
             WHERE e.disclosure_id = disclosure AND e.action = 'approved');
END $$;
