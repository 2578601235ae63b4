-- Closing a tenant: maintenance records it and deletes every row about its people.
GRANT SELECT, INSERT, UPDATE ON tenant_closings TO luminescent_maintenance;
GRANT DELETE ON subjects TO luminescent_maintenance;
GRANT SELECT ON tenant_closings TO luminescent_backup;

ALTER TABLE tenant_closings ENABLE ROW LEVEL SECURITY;
CREATE POLICY request_path ON tenant_closings TO luminescent_app
    USING (tenant_id = current_setting('luminescent.tenant', true) AND tenant_id <> '_system');
CREATE POLICY maintenance ON tenant_closings TO luminescent_maintenance USING (true);
CREATE POLICY backup ON tenant_closings FOR SELECT TO luminescent_backup USING (true);
