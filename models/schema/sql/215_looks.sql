-- From which day an open item is to be looked at by the planners of collections and reminders.
--
-- An item that will never be collected, or had its last reminder, stays open for years. The planners rest it
-- (`tasks/collection/plan.py`, `tasks/reminders/plan.py`): until a day, or for good by NULL. Whatever their decision stood on
-- brings it back here, in the transaction that changes it. The first day of the calendar means "look now".

-- The item itself: when it is due, how much of it is open and disputed.
CREATE OR REPLACE FUNCTION tenure.look_at_item_again() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.collect_from := DATE '0001-01-01';
    NEW.remind_from := DATE '0001-01-01';
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER look_at_item_again BEFORE UPDATE OF due_on, open, disputed ON tenure.open_items
    FOR EACH ROW WHEN (NEW.invoice_id IS NOT NULL) EXECUTE FUNCTION tenure.look_at_item_again();

-- A row of another table that names the account, and the invoice or none; the columns to reset are the arguments.
CREATE OR REPLACE FUNCTION tenure.look_again() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed jsonb := to_jsonb(NEW);
    the_account uuid := coalesce(changed ->> 'account_id', changed ->> 'id');
    the_invoice uuid := changed ->> 'invoice_id';
BEGIN
    -- Who enters a means of payment does not wait for a reminder that is just being sent, which holds its items: those
    -- are found by the planner, which looks at new means of payment.
    IF TG_TABLE_NAME = 'payment_methods' THEN
        UPDATE tenure.open_items SET collect_from = DATE '0001-01-01'
         WHERE id IN (SELECT id FROM tenure.open_items
                       WHERE account_id = the_account AND open > 0 AND invoice_id IS NOT NULL
                         AND account_id IN (
                             SELECT id FROM tenure.accounts WHERE id = the_account AND status = 'active')
                         FOR NO KEY UPDATE SKIP LOCKED);
        RETURN NULL;
    END IF;
    UPDATE tenure.open_items
       SET collect_from = CASE WHEN 'collect' = TG_ARGV[0] OR 'both' = TG_ARGV[0] THEN DATE '0001-01-01' ELSE collect_from END,
           remind_from = CASE WHEN 'remind' = TG_ARGV[0] OR 'both' = TG_ARGV[0] THEN DATE '0001-01-01' ELSE remind_from END
     WHERE account_id = the_account AND open > 0 AND invoice_id IS NOT NULL
       AND (the_invoice IS NULL OR invoice_id = the_invoice)
       AND account_id IN (SELECT id FROM tenure.accounts WHERE id = the_account AND status = 'active');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER look_again AFTER INSERT OR UPDATE ON tenure.payment_methods
    FOR EACH ROW EXECUTE FUNCTION tenure.look_again('collect');
CREATE OR REPLACE TRIGGER look_again
    AFTER UPDATE OF outcome, next_attempt_on, local_day, method_id ON tenure.collection_attempts
    FOR EACH ROW EXECUTE FUNCTION tenure.look_again('collect');
CREATE OR REPLACE TRIGGER look_again AFTER UPDATE OF step, withdrawn_at ON tenure.reminders
    FOR EACH ROW EXECUTE FUNCTION tenure.look_again('remind');
CREATE OR REPLACE TRIGGER look_again_at_new AFTER INSERT ON tenure.reminders
    FOR EACH ROW EXECUTE FUNCTION tenure.look_again('remind');
CREATE OR REPLACE TRIGGER look_again AFTER INSERT OR UPDATE ON tenure.reminder_holds
    FOR EACH ROW EXECUTE FUNCTION tenure.look_again('remind');
CREATE OR REPLACE TRIGGER look_again AFTER UPDATE OF status, time_zone, reminder_policy_id ON tenure.accounts
    FOR EACH ROW WHEN (NEW.status = 'active' AND (OLD.status, OLD.time_zone, OLD.reminder_policy_id)
                       IS DISTINCT FROM (NEW.status, NEW.time_zone, NEW.reminder_policy_id))
    EXECUTE FUNCTION tenure.look_again('both');

-- A ladder that changed is another one for every customer.
CREATE OR REPLACE FUNCTION tenure.look_at_all_again() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tenure.open_items SET remind_from = DATE '0001-01-01'
     WHERE open > 0 AND invoice_id IS NOT NULL AND remind_from IS DISTINCT FROM DATE '0001-01-01'
       AND account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER look_at_all_again AFTER INSERT OR UPDATE OR DELETE ON tenure.reminder_policies
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.look_at_all_again();
CREATE OR REPLACE TRIGGER look_at_all_again AFTER INSERT OR UPDATE OR DELETE ON tenure.reminder_steps
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.look_at_all_again();
