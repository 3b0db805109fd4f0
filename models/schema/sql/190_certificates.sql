-- Certificates are a chain that only grows (T25). Whoever adds to it waits for the one before, so that numbers have no gap.

CREATE OR REPLACE FUNCTION tenure.chain_certificate() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
    said jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tenure.certificates', 0));
    SELECT c.number, c.sha256 INTO last FROM tenure.certificates AS c ORDER BY c.number DESC LIMIT 1;
    IF NEW.number <> coalesce(last.number, 0) + 1 THEN
        RAISE EXCEPTION 'the next certificate is number %, not %', coalesce(last.number, 0) + 1, NEW.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    said := convert_from(NEW.body, 'UTF8')::jsonb;
    IF NEW.previous IS DISTINCT FROM last.sha256 OR NEW.sha256 <> sha256(NEW.body)
       OR (said ->> 'number', said ->> 'kind', said ->> 'key', said ->> 'previous')
          IS DISTINCT FROM (NEW.number::text, NEW.kind, NEW.key, encode(NEW.previous, 'hex'))
    THEN
        RAISE EXCEPTION 'certificate % does not fit: its row, its text and the certificate before disagree', NEW.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.kind = 'purge' AND NOT EXISTS (
        SELECT FROM tenure.terminations AS t
         WHERE t.id = NEW.termination_id AND t.verified_at IS NOT NULL AND t.stage IN ('verifying', 'certified'))
    THEN
        RAISE EXCEPTION 'termination % was not verified: it gets no certificate', NEW.termination_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER chain BEFORE INSERT ON tenure.certificates
    FOR EACH ROW EXECUTE FUNCTION tenure.chain_certificate();

CREATE OR REPLACE FUNCTION tenure.keep_certificate() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a certificate stays as it was issued' USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE OR REPLACE TRIGGER keep BEFORE UPDATE OR DELETE ON tenure.certificates
    FOR EACH ROW EXECUTE FUNCTION tenure.keep_certificate();
CREATE OR REPLACE TRIGGER keep_all BEFORE TRUNCATE ON tenure.certificates
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.keep_certificate();
