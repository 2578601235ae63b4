-- Who may touch what this revision brings.

GRANT SELECT, INSERT ON memory_changes TO luminescent_app;
GRANT UPDATE (revision, size_bytes, created_at, expires_at, superseded_by, superseded_at, last_accessed_at)
   ON memories TO luminescent_app;
GRANT UPDATE (placement, revision, generation, memory_type, confidence, created_at, expires_at, envelope)
   ON intake TO luminescent_app;

GRANT SELECT, DELETE ON memory_changes TO luminescent_maintenance;
GRANT UPDATE (state, purge_started_at, generation) ON memories TO luminescent_maintenance;

GRANT SELECT ON memory_changes TO luminescent_backup;

ALTER TABLE memory_changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY request_path ON memory_changes TO luminescent_app
    USING (tenant_id = current_setting('luminescent.tenant', true) AND tenant_id <> '_system');
CREATE POLICY maintenance ON memory_changes TO luminescent_maintenance USING (true);
CREATE POLICY backup ON memory_changes FOR SELECT TO luminescent_backup USING (true);
