-- What a mail provider tells of a message, as the web tier gets it (E11):
--
--     SELECT tenure.record_mail_event('{"Type": "Notification", "Message": "{\"eventType\": \"Bounce\", …}"}');
--
-- It takes an event of Amazon SES as JSON, bare or in the envelope of SNS, and asks for `emails.record_event` with what
-- matters of it: which message, what happened, when, and of which class. Addresses, subjects and free text of the event
-- are not kept (P1.3). The same event again is the same request. That it comes from the provider at all (the signature
-- of SNS) is for the web tier to check, which alone can see the request.
CREATE OR REPLACE FUNCTION tenure.record_mail_event(notification jsonb) RETURNS uuid LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told jsonb := notification;
    what text;
    kind text;
    at_time text;
    detail text;
    message text;
BEGIN
    IF notification ->> 'Type' = 'Notification' THEN
        IF NOT pg_input_is_valid(coalesce(notification ->> 'Message', ''), 'jsonb') THEN
            RAISE EXCEPTION 'the message of the notification is not JSON' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        told := (notification ->> 'Message')::jsonb;
    ELSIF jsonb_typeof(notification) = 'object' AND notification ? 'Type' THEN
        RAISE EXCEPTION 'a "%" of SNS is no event of a message', left(notification ->> 'Type', 40)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Confirm the subscription where SNS calls.';
    END IF;
    what := coalesce(told ->> 'eventType', told ->> 'notificationType');
    CASE what
        WHEN 'Send' THEN
            kind := 'sent';
            at_time := told #>> '{mail,timestamp}';
        WHEN 'Delivery' THEN
            kind := 'delivered';
            at_time := told #>> '{delivery,timestamp}';
        WHEN 'DeliveryDelay' THEN
            kind := 'deferred';
            at_time := told #>> '{deliveryDelay,timestamp}';
            detail := told #>> '{deliveryDelay,delayType}';
        WHEN 'Bounce' THEN
            -- Any other bounce is given up too, and the address is not to blame.
            kind := CASE WHEN told #>> '{bounce,bounceType}' = 'Permanent' THEN 'bounced' ELSE 'rejected' END;
            at_time := told #>> '{bounce,timestamp}';
            detail := concat_ws(' ', told #>> '{bounce,bounceType}', told #>> '{bounce,bounceSubType}');
        WHEN 'Complaint' THEN
            kind := 'complained';
            at_time := told #>> '{complaint,timestamp}';
            detail := told #>> '{complaint,complaintFeedbackType}';
        WHEN 'Reject' THEN
            kind := 'rejected';
            at_time := told #>> '{mail,timestamp}';
            detail := told #>> '{reject,reason}';
        ELSE
            RAISE EXCEPTION 'an event of the kind "%" is not known', left(coalesce(what, 'NULL'), 40)
                USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Let the configuration set publish Send, Delivery, DeliveryDelay, Bounce, Complaint and Reject.';
    END CASE;
    -- Our own name for the message; else its Message-ID, where the provider left it alone; else the provider's name.
    message := coalesce(
        told #>> '{mail,tags,tenure-message,0}',
        (SELECT trim('<>' FROM header ->> 'value') FROM jsonb_array_elements(
                CASE jsonb_typeof(told #> '{mail,headers}') WHEN 'array' THEN told #> '{mail,headers}' ELSE '[]' END) AS header
          WHERE lower(header ->> 'name') = 'message-id' LIMIT 1),
        told #>> '{mail,messageId}');
    IF message IS NULL OR at_time IS NULL OR NOT pg_input_is_valid(at_time, 'timestamptz') THEN
        RAISE EXCEPTION 'the event "%" does not say which message it is about, or when it happened', what
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN tenure.request(
        'emails.record_event',
        jsonb_strip_nulls(jsonb_build_object('message', left(message, 200), 'event', kind, 'occurred_at', at_time,
                                             'detail', nullif(left(detail, 100), ''))),
        'event:' || encode(sha256(convert_to(concat_ws('|', message, kind, at_time), 'UTF8')), 'hex'));
END $$;
