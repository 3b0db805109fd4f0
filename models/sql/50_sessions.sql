-- What a reader may see: a session ends in the very second that it is 24 hours old, swept or not (S2, P9.3).
CREATE OR REPLACE VIEW tenure.live_sessions AS
    SELECT id, account_id, contact_id, secret_sha256, ip, user_agent, created_at FROM tenure.sessions
     WHERE created_at > statement_timestamp() - interval '24 hours';
