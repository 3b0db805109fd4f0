-- A termination goes its way and no other (T1). Whoever writes something else, by whatever client, is refused.

CREATE OR REPLACE FUNCTION tenure.may_follow(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN (before, after) IN (
    ('requested', 'grace'),
    ('grace', 'frozen'),
    ('frozen', 'exporting'),
    ('exporting', 'sealed'),
    ('sealed', 'delivered'),
    ('delivered', 'purging'),
    ('purging', 'verifying'),
    -- Something was left: it is purged once more.
    ('verifying', 'purging'),
    ('verifying', 'certified'),
    -- Until the first row is deleted the customer may change its mind (T3).
    ('requested', 'cancelled'),
    ('grace', 'cancelled'),
    ('frozen', 'cancelled'),
    ('exporting', 'cancelled'),
    ('sealed', 'cancelled'),
    ('delivered', 'cancelled'));

CREATE OR REPLACE FUNCTION tenure.guard_termination() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.stage <> 'requested' THEN
            RAISE EXCEPTION 'a termination begins as requested, not as %', NEW.stage
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'a termination is proof of itself and is not deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.id <> OLD.id OR NEW.account_id <> OLD.account_id THEN
        RAISE EXCEPTION 'a termination stays that of its account' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.stage = OLD.stage AND NEW.stage_before IS NOT DISTINCT FROM OLD.stage_before THEN
        RETURN NEW;
    END IF;
    allowed := CASE
        -- Aside, remembering whence, and back to the very same stage. What is held may be cancelled as what it was.
        WHEN NEW.stage IN ('held', 'failed') AND OLD.stage IN ('held', 'failed') THEN NEW.stage_before = OLD.stage_before
        WHEN NEW.stage IN ('held', 'failed') THEN
            NEW.stage_before = OLD.stage AND OLD.stage NOT IN ('certified', 'cancelled')
        WHEN OLD.stage IN ('held', 'failed') THEN
            NEW.stage = OLD.stage_before
            OR NEW.stage = 'cancelled' AND tenure.may_follow(OLD.stage_before, 'cancelled')
        ELSE tenure.may_follow(OLD.stage, NEW.stage)
    END;
    IF NOT allowed THEN
        RAISE EXCEPTION 'termination % is %: it cannot become %', OLD.id, OLD.stage, NEW.stage
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON tenure.terminations
    FOR EACH ROW EXECUTE FUNCTION tenure.guard_termination();

-- A step that failed for good sets its termination aside, and one that is tried again brings it back, whoever does it.
-- The step's row is always locked before the termination's.
CREATE OR REPLACE FUNCTION tenure.follow_failed_step() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state = 'failed' THEN
        UPDATE tenure.terminations SET stage = 'failed', stage_before = coalesce(stage_before, stage)
         WHERE id = NEW.termination_id AND stage NOT IN ('certified', 'cancelled', 'failed');
    ELSE
        UPDATE tenure.terminations SET stage = stage_before, stage_before = NULL
         WHERE id = NEW.termination_id AND stage = 'failed'
           AND NOT EXISTS (SELECT FROM tenure.termination_steps AS other
                            WHERE other.termination_id = NEW.termination_id AND other.state = 'failed');
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER follow_failed_step AFTER UPDATE OF state ON tenure.termination_steps FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND 'failed' IN (OLD.state, NEW.state))
    EXECUTE FUNCTION tenure.follow_failed_step();

-- A termination that a hold has set aside goes on when no hold is left, whoever releases it (T22).
CREATE OR REPLACE FUNCTION tenure.go_on_after_hold() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Whoever is just setting it aside, or releases another hold, is waited for; the statements after this one see what
    -- came of it.
    PERFORM FROM tenure.terminations WHERE account_id = NEW.account_id AND stage NOT IN ('certified', 'cancelled')
        FOR UPDATE;
    IF NOT tenure.is_held(NEW.account_id) THEN
        UPDATE tenure.terminations SET stage = stage_before, stage_before = NULL
         WHERE account_id = NEW.account_id AND stage = 'held';
        IF FOUND THEN
            PERFORM pg_notify('tenure_work', 'termination_steps');
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER go_on_after_hold AFTER UPDATE OF released_at ON tenure.legal_holds FOR EACH ROW
    WHEN (OLD.released_at IS NULL AND NEW.released_at IS NOT NULL)
    EXECUTE FUNCTION tenure.go_on_after_hold();
