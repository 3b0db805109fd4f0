-- Reminders: ladders that are in order, holds that do not slip past a letter on its way, no letter for an ended contract.

CREATE OR REPLACE FUNCTION tenure.check_reminder_ladder() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong record;
BEGIN
    SELECT policy.name, problem.said INTO wrong
      FROM tenure.reminder_policies AS policy
     CROSS JOIN LATERAL (
        SELECT step.*, row_number() OVER ladder AS place, lag(days) OVER ladder AS days_before,
               lag(level) OVER ladder AS level_before,
               array_position(ARRAY['upcoming', 'first', 'second', 'final'], level::text) AS height,
               lag(array_position(ARRAY['upcoming', 'first', 'second', 'final'], level::text)) OVER ladder AS height_before,
               bool_or(level IN ('first', 'second')) OVER (ladder ROWS UNBOUNDED PRECEDING) AS after_a_reminder
          FROM tenure.reminder_steps AS step WHERE step.policy_id = policy.id
        WINDOW ladder AS (ORDER BY number)) AS step
     CROSS JOIN LATERAL (SELECT CASE
            WHEN step.number <> step.place
                THEN format('its steps are not numbered 1, 2, 3 …: number %s is missing', step.place)
            WHEN step.days <= step.days_before
                THEN format('step %s comes on day %s, which is not after step %s on day %s',
                            step.number, step.days, step.number - 1, step.days_before)
            WHEN step.height < step.height_before
                THEN format('step %s is "%s" and comes after "%s"', step.number, step.level, step.level_before)
            WHEN step.level = 'final' AND NOT step.after_a_reminder
                THEN format('step %s is "final", and no step before it is "first" or "second"', step.number)
            WHEN step.fee_currency IS NOT NULL
                 AND NOT EXISTS (SELECT FROM tenure.currencies WHERE code = step.fee_currency)
                THEN format('the fee of step %s is in "%s", which is not a currency of ISO 4217', step.number, step.fee_currency)
            END AS said) AS problem
     WHERE problem.said IS NOT NULL
     ORDER BY policy.name, step.number LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the reminder policy "%" is not in order: %', wrong.name, wrong.said
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'Number its steps from 1, each on a later day and of no lower level than the one before.';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER check_reminder_ladder AFTER INSERT OR UPDATE OR DELETE ON tenure.reminder_steps
    FOR EACH STATEMENT EXECUTE FUNCTION tenure.check_reminder_ladder();

-- Write a policy whole, a new one or in the place of the one of that name:
--
--     SELECT tenure.set_reminder_policy('standard', '[{"days": -3, "level": "upcoming"},
--         {"days": 7, "level": "first"}, {"days": 21, "level": "second", "fee": 500, "fee_currency": "EUR"},
--         {"days": 35, "level": "final", "pay_within": 10}]', grace_days => 2, is_default => true);
--
-- Reminders that wait to be sent are looked at again by the new ladder; what was sent stays sent, and an invoice goes on
-- with the step after the last that it had.
CREATE OR REPLACE FUNCTION tenure.set_reminder_policy(
    name text, steps jsonb, grace_days int DEFAULT 0, minimum_gap_days int DEFAULT 3,
    opens_at time DEFAULT '09:00', closes_at time DEFAULT '17:00', is_default boolean DEFAULT false
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    step jsonb;
    place int;
    field text;
    the_policy uuid;
BEGIN
    IF length(trim(name)) NOT BETWEEN 1 AND 80 OR name IS NULL THEN
        RAISE EXCEPTION 'a reminder policy has a name of 1 to 80 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF steps IS NULL OR jsonb_typeof(steps) <> 'array' THEN
        RAISE EXCEPTION 'the steps of the reminder policy "%" are no JSON array', name USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Write them as [{"days": 7, "level": "first"}, …]; [] reminds nobody.';
    END IF;
    IF grace_days NOT BETWEEN 0 AND 60 OR minimum_gap_days NOT BETWEEN 1 AND 90 THEN
        RAISE EXCEPTION 'the reminder policy "%" has % days of grace and a gap of % days', name, grace_days, minimum_gap_days
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Grace is 0 to 60 days, the gap 1 to 90.';
    END IF;
    IF closes_at - opens_at < interval '1 hour' THEN
        RAISE EXCEPTION 'the reminder policy "%" opens at % and closes at %', name, opens_at, closes_at
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Let it close an hour after it opens, at the earliest.';
    END IF;
    FOR step, place IN SELECT * FROM jsonb_array_elements(steps) WITH ORDINALITY LOOP
        IF jsonb_typeof(step) <> 'object' THEN
            RAISE EXCEPTION 'step % of the reminder policy "%" is no JSON object', place, name
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Write {"days": 7, "level": "first"}.';
        END IF;
        FOR field IN SELECT jsonb_object_keys(step) LOOP
            IF field NOT IN ('days', 'level', 'fee', 'fee_currency', 'pay_within') THEN
                RAISE EXCEPTION 'step % of the reminder policy "%" has no "%"', place, name, left(field, 40)
                    USING ERRCODE = 'invalid_parameter_value',
                          HINT = 'It has days and level, and may have fee, fee_currency and pay_within.';
            END IF;
            IF field IN ('days', 'fee', 'pay_within') AND jsonb_typeof(step -> field) <> 'null'
               AND NOT (jsonb_typeof(step -> field) = 'number' AND (step -> field)::text ~ '^-?\d{1,15}$') THEN
                RAISE EXCEPTION '"%" of step % of the reminder policy "%" is no whole number', field, place, name
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END LOOP;
        IF (step ->> 'level') IS NULL OR step ->> 'level' NOT IN ('upcoming', 'first', 'second', 'final') THEN
            RAISE EXCEPTION 'step % of the reminder policy "%" has the level "%"', place, name,
                left(coalesce(step ->> 'level', 'none'), 40) USING ERRCODE = 'invalid_parameter_value',
                HINT = 'A level is upcoming, first, second or final.';
        END IF;
        IF (step ->> 'days')::bigint NOT BETWEEN -60 AND 365 OR step ->> 'days' IS NULL
           OR (step ->> 'level' = 'upcoming') <> ((step ->> 'days')::bigint <= 0) THEN
            RAISE EXCEPTION 'step % of the reminder policy "%" is "%" and comes on day %', place, name, step ->> 'level',
                coalesce(step ->> 'days', 'none') USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Upcoming ones come on day -60 to 0, counted from the due date; all others on day 1 to 365 of being overdue.';
        END IF;
        IF (step ->> 'fee' IS NULL) <> (step ->> 'fee_currency' IS NULL) OR (step ->> 'fee')::bigint <= 0 THEN
            RAISE EXCEPTION 'the fee of step % of the reminder policy "%" is no amount', place, name
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give fee in minor units, and fee_currency.';
        END IF;
        IF (step ->> 'pay_within')::bigint NOT BETWEEN 1 AND 60
           OR step ->> 'level' = 'final' AND step ->> 'pay_within' IS NULL THEN
            RAISE EXCEPTION 'step % of the reminder policy "%" does not say when to pay', place, name
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give pay_within, 1 to 60 days; a final step needs it.';
        END IF;
    END LOOP;
    IF is_default THEN
        UPDATE tenure.reminder_policies AS policy SET is_default = false WHERE policy.is_default AND policy.name <> name;
    END IF;
    INSERT INTO tenure.reminder_policies AS policy (name, grace_days, minimum_gap_days, opens_at, closes_at, is_default)
    VALUES (name, grace_days, minimum_gap_days, opens_at, closes_at, is_default)
    ON CONFLICT ON CONSTRAINT uq_reminder_policies_name DO UPDATE
       SET grace_days = excluded.grace_days, minimum_gap_days = excluded.minimum_gap_days, opens_at = excluded.opens_at,
           closes_at = excluded.closes_at, is_default = excluded.is_default
    RETURNING policy.id INTO the_policy;
    DELETE FROM tenure.reminder_steps WHERE policy_id = the_policy;
    INSERT INTO tenure.reminder_steps (policy_id, number, days, level, fee, fee_currency, pay_within)
    SELECT the_policy, ordinality, (each ->> 'days')::int, each ->> 'level', (each ->> 'fee')::bigint,
           each ->> 'fee_currency', (each ->> 'pay_within')::int
      FROM jsonb_array_elements(steps) WITH ORDINALITY AS given (each, ordinality);
    RETURN the_policy;
END $$;

-- Whoever sends a letter holds the account's row until the mail server has answered. A pause or promise waits for that,
-- so that it is either seen at the last moment or comes after the letter (B12).
CREATE OR REPLACE FUNCTION tenure.await_letter() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account_status text;
BEGIN
    SELECT status INTO account_status FROM tenure.accounts WHERE id = NEW.account_id FOR NO KEY UPDATE;
    IF account_status <> 'active' AND TG_OP = 'INSERT' THEN
        RAISE EXCEPTION 'the account is %: it is not reminded any more', account_status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.invoice_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM tenure.invoices WHERE id = NEW.invoice_id AND kind = 'invoice' AND account_id = NEW.account_id)
    THEN
        RAISE EXCEPTION 'the % is for an invoice that this account does not have', NEW.kind
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER await_letter BEFORE INSERT OR UPDATE OF account_id, invoice_id, kind, until ON tenure.reminder_holds
    FOR EACH ROW EXECUTE FUNCTION tenure.await_letter();

CREATE OR REPLACE TRIGGER refuse_fenced AFTER INSERT ON tenure.reminder_letters
    REFERENCING NEW TABLE AS tenure_written FOR EACH STATEMENT
    EXECUTE FUNCTION tenure.fence('SELECT account_id::text FROM tenure_written', 'id');

-- Whether a copy of a letter was accepted whose address has not bounced since (B14).
CREATE OR REPLACE FUNCTION tenure.is_reminder_accepted(letter uuid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN EXISTS (
    SELECT FROM tenure.reminder_copies AS copy JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
     WHERE copy.letter_id = letter AND email.state = 'done'
       AND NOT EXISTS (SELECT FROM tenure.delivery_events AS event
                        WHERE event.email_message_id = email.id AND event.kind = 'bounced'));

-- Whether a copy of a letter is still to be sent.
CREATE OR REPLACE FUNCTION tenure.is_reminder_under_way(letter uuid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN EXISTS (
    SELECT FROM tenure.reminder_copies AS copy JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
     WHERE copy.letter_id = letter AND email.state IN ('pending', 'running'));
