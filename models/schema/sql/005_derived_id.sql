-- The id of something that is derived from what it is (RFC 9562, version 8): made again after a failover or a restore
-- that lost it, it has the same id, and so the same idempotency key, object name and Message-ID.
--
-- `head` gives the first 48 bits, as the time gives them in version 7, so that what belongs together lies together in
-- indexes; the rest is a hash of `head` and `parts`.
CREATE OR REPLACE FUNCTION tenure.derived_id(head bytea, VARIADIC parts text[]) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT
PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN encode(
    (SELECT set_byte(set_byte(bytes, 6, get_byte(bytes, 6) & 15 | 128), 8, get_byte(bytes, 8) & 63 | 128)
       FROM (SELECT substring(head FOR 6)
                    || substring(sha256(head || convert_to(array_to_string(parts, chr(31)), 'UTF8')) FOR 10)) AS made (bytes)),
    'hex')::uuid;
