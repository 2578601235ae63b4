-- Who may call: what API keys need beyond 0001, tokens that are revoked, refused strangers that are counted.

-- The last use of API keys, by the role that looks them up: one column, and nothing else.
GRANT UPDATE (last_used_at) ON api_keys TO luminescent_keys;
CREATE POLICY key_use ON api_keys FOR UPDATE TO luminescent_keys USING (true) WITH CHECK (true);

GRANT SELECT ON revoked_tokens TO luminescent_app, luminescent_maintenance, luminescent_backup;
GRANT INSERT, DELETE ON revoked_tokens TO luminescent_maintenance;
ALTER TABLE revoked_tokens ENABLE ROW LEVEL SECURITY;
CREATE POLICY request_path ON revoked_tokens TO luminescent_app
    USING (tenant_id = current_setting('luminescent.tenant', true) AND tenant_id <> '_system');
CREATE POLICY maintenance ON revoked_tokens TO luminescent_maintenance USING (true);
CREATE POLICY backup ON revoked_tokens FOR SELECT TO luminescent_backup USING (true);

-- The request path counts; reporting takes rows away, and so does the worker alone.
GRANT SELECT, INSERT, UPDATE ON refusals TO luminescent_app;
GRANT SELECT, UPDATE, DELETE ON refusals TO luminescent_worker;
GRANT SELECT ON refusals TO luminescent_maintenance, luminescent_backup;
GRANT INSERT ON audit_events TO luminescent_worker;
CREATE POLICY system_log_worker ON audit_events FOR INSERT TO luminescent_worker WITH CHECK (log_id = '_system');

-- What is known of a token whose signature holds: the state of its tenant (`unknown` if there is none), or `revoked`.
CREATE FUNCTION lc_token(p_tenant text, p_tag bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
BEGIN
    IF EXISTS (SELECT 1 FROM revoked_tokens WHERE tenant_id = p_tenant AND token_tag = p_tag) THEN
        RETURN 'revoked';
    END IF;
    RETURN v_state;
END $$;

-- Count a refusal of somebody who belongs to no tenant, and record it on its own if it is one of the first p_each of
-- its source in this minute. At most p_sources sources have a row of their own in a minute; the rest share one.
-- Both are committed before the caller is answered. `due` says that a minute before this one waits for its report.
CREATE FUNCTION lc_refused(
    p_source text, p_event jsonb, p_reason text, p_each integer, p_sources integer
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_minute timestamptz := date_trunc('minute', clock_timestamp());
    v_source text := p_source;
    v_failures bigint;
    v_due boolean := false;
BEGIN
    UPDATE refusals r
       SET failures = r.failures + 1,
           further = CASE WHEN r.failures < p_each THEN r.further ELSE lc_one_more(r.further, p_reason) END
     WHERE source = v_source AND minute = v_minute RETURNING failures INTO v_failures;
    IF v_failures IS NULL THEN
        -- One at a time, or two new sources would both see room for one.
        PERFORM pg_advisory_xact_lock(27747, 1);
        IF (SELECT count(*) FROM refusals WHERE minute = v_minute AND source <> 'others') >= p_sources
           AND NOT EXISTS (SELECT 1 FROM refusals WHERE source = v_source AND minute = v_minute)
        THEN
            v_source := 'others';
        END IF;
        INSERT INTO refusals AS r (source, minute, failures) VALUES (v_source, v_minute, 1)
        ON CONFLICT (source, minute) DO UPDATE
           SET failures = r.failures + 1,
               further = CASE WHEN r.failures < p_each THEN r.further ELSE lc_one_more(r.further, p_reason) END
        RETURNING failures INTO v_failures;
        v_due := v_failures = 1 AND EXISTS (SELECT 1 FROM refusals WHERE minute <> v_minute);
    END IF;
    IF v_failures <= p_each THEN
        p_event := jsonb_set(p_event, '{details,source}', to_jsonb(v_source));
        PERFORM lc_append('_system', p_event, 'denied', p_reason, '{}', '{}');
    END IF;
    RETURN jsonb_build_object('recorded', v_failures <= p_each, 'due', v_due);
END $$;

CREATE FUNCTION lc_one_more(p_counts jsonb, p_name text) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_counts || jsonb_build_object(p_name, coalesce((p_counts->>p_name)::bigint, 0) + 1)
$$;

-- Report the minutes that are over: one event for each source that failed more often than was recorded on its own,
-- in the transaction that forgets the count. At most as many as there are ids for events; returns how many were taken.
-- A minute is over when it is not the present one: after a clock was set back, those ahead are over too.
CREATE FUNCTION lc_report(p_event jsonb, p_event_ids uuid[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_row refusals%ROWTYPE;
    v_taken integer := 0;
BEGIN
    FOR v_row IN
        WITH over AS MATERIALIZED (
            SELECT source, minute FROM refusals WHERE minute <> date_trunc('minute', clock_timestamp())
             ORDER BY minute, source LIMIT cardinality(p_event_ids) FOR UPDATE SKIP LOCKED
        )
        DELETE FROM refusals r USING over o WHERE r.source = o.source AND r.minute = o.minute RETURNING r.*
    LOOP
        v_taken := v_taken + 1;
        CONTINUE WHEN v_row.further = '{}';
        PERFORM lc_append(
            '_system',
            p_event || jsonb_build_object(
                'event_id', p_event_ids[v_taken],
                'details', jsonb_build_object(
                    'source', v_row.source, 'minute', lc_instant(v_row.minute), 'reasons', v_row.further
                )
            ),
            'denied', 'repeated', '{}',
            jsonb_build_object('failures', (SELECT sum(value::bigint) FROM jsonb_each_text(v_row.further)))
        );
    END LOOP;
    RETURN v_taken;
END $$;
