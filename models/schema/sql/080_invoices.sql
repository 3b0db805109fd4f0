-- Invoices: scheduled by the account's own row, complete at COMMIT, never changed (B8).

-- The two counters that are always there.
INSERT INTO tenure.invoice_series (name, kind, prefix)
VALUES ('main', 'invoice', 'INV-'), ('main', 'credit_note', 'CN-') ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION tenure.set_invoice_due_at() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.invoiced_from IS DISTINCT FROM OLD.invoiced_from THEN
        NEW.invoice_period_start := NEW.invoiced_from;
    END IF;
    IF (SELECT count(*) FROM tenure.invoice_series WHERE name = NEW.invoice_series) < 2 THEN
        RAISE EXCEPTION 'there is no series of invoices and credit notes called "%"', NEW.invoice_series
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Add its two rows to tenure.invoice_series.';
    END IF;
    -- A trigger that comes before, by its name, has refused time zones that are none.
    NEW.invoice_due_at := CASE WHEN NEW.status = 'active' AND NEW.invoiced_from IS NOT NULL THEN
        tenure.day_begins(tenure.period_end(NEW.invoice_period_start, NEW.billing_day), NEW.time_zone) END;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER then_set_invoice_due_at
    BEFORE INSERT OR UPDATE OF invoiced_from, invoice_period_start, invoice_series, billing_day, time_zone, status
    ON tenure.accounts FOR EACH ROW EXECUTE FUNCTION tenure.set_invoice_due_at();

CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON tenure.invoices
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal BEFORE DELETE ON tenure.invoices
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.invoices
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_removal_of_others(
        'SELECT account_id FROM tenure_removed');
CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON tenure.invoice_lines
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal BEFORE DELETE ON tenure.invoice_lines
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.invoice_lines
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_removal_of_others(
        'SELECT account_id FROM tenure_removed LEFT JOIN tenure.invoices ON invoices.id = invoice_id');
CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON tenure.invoice_taxes
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal BEFORE DELETE ON tenure.invoice_taxes
    FOR EACH STATEMENT WHEN (NOT tenure.is_purging()) EXECUTE FUNCTION tenure.refuse_change(
        'an issued invoice never changes', 'issue a credit note that corrects it');
CREATE OR REPLACE TRIGGER refuse_removal_of_others AFTER DELETE ON tenure.invoice_taxes
    REFERENCING OLD TABLE AS tenure_removed FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_removal_of_others(
        'SELECT account_id FROM tenure_removed LEFT JOIN tenure.invoices ON invoices.id = invoice_id');
CREATE OR REPLACE TRIGGER refuse_change BEFORE DELETE OR TRUNCATE ON tenure.invoice_series
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.refuse_change(
        'a series of numbers stays', 'leave it as it is and use another one');

-- A counter goes up by what is issued and by nothing else.
CREATE OR REPLACE FUNCTION tenure.keep_invoice_series() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.last_number < OLD.last_number OR (NEW.name, NEW.kind) IS DISTINCT FROM (OLD.name, OLD.kind) THEN
        RAISE EXCEPTION 'the series "%" of numbers only goes up', OLD.name USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER keep_invoice_series BEFORE UPDATE ON tenure.invoice_series
    FOR EACH ROW EXECUTE FUNCTION tenure.keep_invoice_series();

-- Lines and taxes make the total, exactly, for each category and rate. Looked at when the statement ends that writes
-- any of the three tables, so an invoice is written in one statement, and nothing can be added to it later.
CREATE OR REPLACE FUNCTION tenure.check_invoices() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written uuid[];
    wrong text;
BEGIN
    IF TG_TABLE_NAME = 'invoices' THEN
        written := ARRAY(SELECT id FROM added);
    ELSE
        written := ARRAY(SELECT DISTINCT invoice_id FROM added);
    END IF;
    SELECT invoice.number INTO wrong
      FROM tenure.invoices AS invoice
      LEFT JOIN LATERAL (
            SELECT sum(lines.net) AS net, sum(lines.gross) AS gross, sum(lines.lines) AS lines, max(lines.last) AS last,
                   bool_and((taxes.base = lines.net AND taxes.base + taxes.tax = lines.gross) IS TRUE) AS agree
              FROM (SELECT tax_category, tax_rate, sum(net) AS net, sum(gross) AS gross,
                           count(*) AS lines, max(position) AS last
                      FROM tenure.invoice_lines WHERE invoice_id = invoice.id GROUP BY tax_category, tax_rate) AS lines
              FULL JOIN (SELECT * FROM tenure.invoice_taxes WHERE invoice_id = invoice.id) AS taxes
                USING (tax_category, tax_rate)) AS found ON true
     WHERE invoice.id = ANY (written)
       AND (found.net = invoice.net AND found.gross = invoice.total AND found.lines = found.last AND found.agree)
           IS NOT TRUE
     LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invoice % does not add up: its lines and its taxes do not make its total', wrong
            USING ERRCODE = 'integrity_constraint_violation', HINT = 'Write invoice, lines and taxes in one statement.';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER check_invoices AFTER INSERT ON tenure.invoices
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tenure.check_invoices();
CREATE OR REPLACE TRIGGER check_invoices AFTER INSERT ON tenure.invoice_lines
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tenure.check_invoices();
CREATE OR REPLACE TRIGGER check_invoices AFTER INSERT ON tenure.invoice_taxes
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tenure.check_invoices();
