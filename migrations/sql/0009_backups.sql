-- Nothing in these is about one tenant or person, so the request path has no right to them and no row-level security is
-- needed.
GRANT SELECT, INSERT, UPDATE ON data_backups, erasure_ledger TO luminescent_maintenance;
GRANT SELECT ON data_backups, erasure_ledger TO luminescent_backup;
