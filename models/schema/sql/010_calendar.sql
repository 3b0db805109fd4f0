-- Periods: where a billing month ends (B4). Planning calls these for every account: functions in SQL are not STRICT, so
-- that PostgreSQL puts their bodies in their places, which is ten times faster than calling them.

-- The billing day of the month that begins at `month`.
CREATE OR REPLACE FUNCTION tenure.billing_date(month timestamp, billing_day int) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN month::date - 1 + least(billing_day, (month + interval '1 month')::date - month::date);

-- The first day of the period after the one that begins on `start`. `billing_day` 29 to 31 means the last day of
-- shorter months: from 31 January, billing day 31, the next period begins on 28 (or 29) February, then on 31 March.
CREATE OR REPLACE FUNCTION tenure.period_end(start date, billing_day int) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN tenure.billing_date(date_trunc('month', start::timestamp), billing_day) > start
            THEN tenure.billing_date(date_trunc('month', start::timestamp), billing_day)
            ELSE tenure.billing_date(date_trunc('month', start::timestamp) + interval '1 month', billing_day) END;

-- The instant at which the local day `day` begins in `time_zone`: after it, the local date never is an earlier one.
-- Where a DST change skips midnight, the day begins when the clock has jumped; where midnight comes twice, the repeated
-- hour still belongs to the day before. No zone has changed its offset by more than three hours within a day since 1970
-- but for those that crossed the date line, and quarters of an hour are the finest step there is. Of two midnights
-- AT TIME ZONE may give the later: the search begins well before the earlier.
CREATE OR REPLACE FUNCTION tenure.day_begins(day date, time_zone text) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    midnight timestamptz := day::timestamp AT TIME ZONE time_zone;
BEGIN
    -- On nearly all days the offset is the same before and after: the search would find midnight, at fifty times the cost.
    IF (midnight - interval '5 hours') AT TIME ZONE time_zone = day - interval '5 hours'
       AND (midnight + interval '5 hours') AT TIME ZONE time_zone = day + interval '5 hours' THEN
        RETURN midnight;
    END IF;
    RETURN (SELECT max(instant) + interval '15 minutes'
              FROM generate_series(midnight - interval '5 hours', midnight + interval '5 hours', interval '15 minutes')
                   AS instant
             WHERE (instant AT TIME ZONE time_zone)::date < day);
END $$;

CREATE OR REPLACE FUNCTION tenure.set_statement_due_at() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = 'active' AND TG_OP = 'UPDATE' AND NEW.time_zone = OLD.time_zone THEN
        -- Past the block below, which begins a subtransaction: planning moves thousands of accounts at a time.
        NEW.statement_due_at := tenure.day_begins(tenure.period_end(NEW.period_start, NEW.billing_day), NEW.time_zone);
    ELSIF NEW.status = 'active' THEN
        BEGIN
            NEW.statement_due_at := tenure.day_begins(tenure.period_end(NEW.period_start, NEW.billing_day), NEW.time_zone);
        EXCEPTION WHEN invalid_parameter_value THEN
            RAISE EXCEPTION 'time zone "%" is not one that PostgreSQL knows; use an IANA name such as Europe/Vienna', NEW.time_zone
                USING ERRCODE = 'invalid_parameter_value';
        END;
    ELSE
        -- Not 'infinity', which Python has no datetime for.
        NEW.statement_due_at := NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER set_statement_due_at
    BEFORE INSERT OR UPDATE OF period_start, billing_day, time_zone, status ON tenure.accounts
    FOR EACH ROW EXECUTE FUNCTION tenure.set_statement_due_at();
