-- The way in for a webhook's event, in the web tier's own transaction, byte for byte as it came:
--
--     SELECT tenure.record_payment_event(body, signature);     -- the raw body, and the header Stripe-Signature
--
-- It is stored and nothing else; `payments.read_events` checks the signature. The same delivery again is the same row.
CREATE OR REPLACE FUNCTION tenure.record_payment_event(body bytea, signature text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    digest bytea;
    made uuid;
BEGIN
    IF body IS NULL OR length(body) NOT BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION 'the body of an event has 1 to 1,000,000 bytes, this one has %', coalesce(length(body), 0)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the raw body of the request, as bytea.';
    END IF;
    IF signature IS NULL OR length(signature) NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'an event without its signature is not taken' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the header Stripe-Signature as it came.';
    END IF;
    digest := sha256(body || convert_to(signature, 'UTF8'));
    INSERT INTO tenure.payment_events AS event (delivery, body, signature) VALUES (digest, body, signature)
    ON CONFLICT ON CONSTRAINT uq_payment_events_delivery DO NOTHING RETURNING event.id INTO made;
    IF made IS NULL THEN
        SELECT event.id INTO made FROM tenure.payment_events AS event WHERE event.delivery = digest;
    END IF;
    RETURN made;
END $$;
