-- Who may touch what. The owner runs migrations and is not used to serve; every other role is below row-level
-- security, and none may update or delete an audit event.

DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO luminescent_app, luminescent_worker, luminescent_keys, luminescent_backup, '
        'luminescent_maintenance', current_database()
    );
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public
   TO luminescent_app, luminescent_worker, luminescent_keys, luminescent_backup, luminescent_maintenance;

-- Request path.
GRANT SELECT ON plan_limits, tenants, usage_counters, usage_events, subjects, memories, intake, idempotency_keys,
                audit_events, alembic_version TO luminescent_app;
GRANT INSERT ON usage_events, subjects, memories, intake, idempotency_keys, audit_events TO luminescent_app;
GRANT UPDATE (used) ON usage_counters TO luminescent_app;
GRANT UPDATE (generation) ON subjects TO luminescent_app;
GRANT UPDATE (state, deleted_at, generation) ON memories TO luminescent_app;

-- Background worker.
GRANT SELECT ON tenants, usage_counters, memories, intake, alembic_version TO luminescent_worker;
GRANT UPDATE (used) ON usage_counters TO luminescent_worker;
GRANT UPDATE (state) ON memories TO luminescent_worker;
GRANT DELETE ON intake TO luminescent_worker;

-- Look-up of API keys, before a tenant is known.
GRANT SELECT ON api_keys TO luminescent_keys;

-- Administration and erasure.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO luminescent_maintenance;
GRANT INSERT, UPDATE, DELETE ON plan_limits, api_keys, erasures TO luminescent_maintenance;
GRANT INSERT, UPDATE ON tenants, usage_counters TO luminescent_maintenance;
GRANT INSERT, UPDATE ON subjects TO luminescent_maintenance;
GRANT DELETE ON memories, intake, idempotency_keys, usage_events TO luminescent_maintenance;
GRANT INSERT ON audit_events TO luminescent_maintenance;

-- Backup reads everything and writes nothing.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO luminescent_backup;

DO $$
DECLARE
    v_table text;
    v_key text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['tenants', 'usage_counters', 'usage_events', 'subjects', 'memories', 'intake',
                                   'idempotency_keys', 'audit_events', 'api_keys', 'erasures']
    LOOP
        v_key := CASE v_table WHEN 'audit_events' THEN 'log_id' ELSE 'tenant_id' END;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        -- The system log is no tenant's: the request path writes it (below) and cannot read it under any name.
        EXECUTE format(
            'CREATE POLICY request_path ON %I TO luminescent_app '
            'USING (%I = current_setting(''luminescent.tenant'', true) AND %I <> ''_system'')', v_table, v_key, v_key
        );
        EXECUTE format('CREATE POLICY maintenance ON %I TO luminescent_maintenance USING (true)', v_table);
        EXECUTE format('CREATE POLICY backup ON %I FOR SELECT TO luminescent_backup USING (true)', v_table);
    END LOOP;
    FOREACH v_table IN ARRAY ARRAY['tenants', 'usage_counters', 'memories', 'intake']
    LOOP
        EXECUTE format('CREATE POLICY worker ON %I TO luminescent_worker USING (true)', v_table);
    END LOOP;
END $$;
CREATE POLICY system_log ON audit_events FOR INSERT TO luminescent_app WITH CHECK (log_id = '_system');
CREATE POLICY key_lookup ON api_keys FOR SELECT TO luminescent_keys USING (true);
