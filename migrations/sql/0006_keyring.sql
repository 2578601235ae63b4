-- What the control plane remembers of the keyring. Nothing in it is about one tenant or person, so the request path
-- has no right to it and no row-level security is needed.
GRANT SELECT, INSERT, UPDATE ON keyring_state, keyring_backups TO luminescent_maintenance;
GRANT SELECT ON keyring_state, keyring_backups TO luminescent_backup;
