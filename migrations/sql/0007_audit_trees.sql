-- An event and its place in the queue of the sequencer commit together. The queue has no order that anybody relies on:
-- ids and times of concurrent commits are not in the order of their commits, so no watermark on them would be safe.
-- It refers to no event by a foreign key: that would cost every operation a look-up, and one function writes both.

CREATE OR REPLACE FUNCTION lc_append(
    p_log text, p_event jsonb, p_outcome text, p_reason text, p_ids uuid[], p_counts jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_id uuid := (p_event->>'event_id')::uuid;
    v_server_us bigint := (extract(epoch FROM v_now - statement_timestamp()) * 1000000)::bigint;
    v_event jsonb := p_event || jsonb_build_object(
        'log_id', p_log,
        'occurred_at', lc_instant(v_now),
        'outcome', p_outcome,
        'reason', p_reason,
        'resource_ids', to_jsonb(p_ids),
        'counts', p_counts,
        'latency_us', coalesce((p_event->>'latency_us')::bigint, 0) + v_server_us
    );
BEGIN
    IF p_log = '_system' THEN
        -- The request path cannot read this log, so a repeated attempt cannot know that its event is there already.
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        VALUES (v_id, p_log, v_now, v_event) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    ELSE
        INSERT INTO audit_events (event_id, log_id, occurred_at, event) VALUES (v_id, p_log, v_now, v_event);
    END IF;
    INSERT INTO audit_pending (event_id, log_id) VALUES (v_id, p_log);
END $$;

INSERT INTO audit_pending (event_id, log_id) SELECT event_id, log_id FROM audit_events;

GRANT INSERT ON audit_pending TO luminescent_app, luminescent_maintenance;
GRANT SELECT ON audit_pending, audit_leaves, audit_archives, audit_tiles, audit_trees, audit_intents
    TO luminescent_maintenance, luminescent_backup;

-- The sequencer is the worker's: it reads events, and nobody else may write a tree.
GRANT SELECT ON audit_events TO luminescent_worker;
-- It records events of its own too: reports of refused strangers, and what it finds.
GRANT SELECT, INSERT, DELETE ON audit_pending TO luminescent_worker;
GRANT SELECT, INSERT ON audit_leaves TO luminescent_worker;
GRANT SELECT, INSERT, DELETE ON audit_intents TO luminescent_worker;
GRANT SELECT, INSERT, UPDATE ON audit_tiles, audit_trees TO luminescent_worker;

-- What is archived is recorded once and stays recorded, also when its file is deleted.
GRANT INSERT, UPDATE (deleted_at) ON audit_archives TO luminescent_maintenance;

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['audit_pending', 'audit_leaves', 'audit_archives', 'audit_tiles', 'audit_trees',
                                   'audit_intents']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            'CREATE POLICY request_path ON %I TO luminescent_app '
            'USING (log_id = current_setting(''luminescent.tenant'', true) AND log_id <> ''_system'')', v_table
        );
        IF v_table <> 'audit_archives' THEN
            EXECUTE format('CREATE POLICY worker ON %I TO luminescent_worker USING (true)', v_table);
        END IF;
        EXECUTE format('CREATE POLICY maintenance ON %I TO luminescent_maintenance USING (true)', v_table);
        EXECUTE format('CREATE POLICY backup ON %I FOR SELECT TO luminescent_backup USING (true)', v_table);
    END LOOP;
END $$;
CREATE POLICY worker ON audit_events FOR SELECT TO luminescent_worker USING (true);
CREATE POLICY system_log ON audit_pending FOR INSERT TO luminescent_app WITH CHECK (log_id = '_system');
