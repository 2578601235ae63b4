-- Who may touch the placements and the moves between them. Readers learn from `placements` which column to read and
-- whose vectors are in it; the worker compares its epoch. Only administration changes either table.

GRANT SELECT ON placements TO luminescent_app, luminescent_worker, luminescent_maintenance, luminescent_backup;
GRANT INSERT, UPDATE ON placements TO luminescent_maintenance;

GRANT SELECT ON placement_moves TO luminescent_worker, luminescent_maintenance, luminescent_backup;
GRANT INSERT, UPDATE ON placement_moves TO luminescent_maintenance;
-- A switch takes what waits in intake along, and makes the snapshots of other processes stale.
GRANT UPDATE (placement) ON intake TO luminescent_maintenance;

ALTER TABLE placement_moves ENABLE ROW LEVEL SECURITY;
CREATE POLICY request_path ON placement_moves TO luminescent_app
    USING (tenant_id = current_setting('luminescent.tenant', true) AND tenant_id <> '_system');
CREATE POLICY maintenance ON placement_moves TO luminescent_maintenance USING (true);
CREATE POLICY backup ON placement_moves FOR SELECT TO luminescent_backup USING (true);
CREATE POLICY worker ON placement_moves TO luminescent_worker USING (true);
