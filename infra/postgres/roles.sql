-- Roles and databases of an installation on an external PostgreSQL (16 or later, with the extension "vector").
-- What the embedded server gets from cloud/storage/roles.py; a test compares the two. May be run again at any time,
-- also to change passwords.
--
--   psql -X -v ON_ERROR_STOP=1 -v owner_password=... -v app_password=... -v worker_password=... -v keys_password=... \
--        -v backup_password=... -v maintenance_password=... -v pixeltable_password=... \
--        -d postgres -f infra/postgres/roles.sql
--
-- Run it as a superuser. What each role may touch inside luminescent_control is granted by the migrations.
-- pg_hba.conf remains yours: give these roles scram-sha-256, and none of them trust.

\set ON_ERROR_STOP on

-- The statements below hold passwords: keep them out of the server's log, and store none in the old format.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET password_encryption = 'scram-sha-256';

SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['luminescent_owner', 'luminescent_app', 'luminescent_worker', 'luminescent_keys',
                    'luminescent_backup', 'luminescent_maintenance', 'luminescent_pixeltable']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE luminescent_owner       LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'owner_password';
ALTER ROLE luminescent_app         LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'app_password';
ALTER ROLE luminescent_worker      LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'worker_password';
ALTER ROLE luminescent_keys        LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'keys_password';
ALTER ROLE luminescent_backup      LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'backup_password';
ALTER ROLE luminescent_maintenance LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'maintenance_password';
ALTER ROLE luminescent_pixeltable  LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'pixeltable_password';

-- Erasure closes WAL segments and writes checkpoints.
GRANT pg_checkpoint TO luminescent_maintenance;

SELECT format('CREATE DATABASE %I OWNER %I', name, owner)
  FROM (VALUES ('luminescent_control', 'luminescent_owner'), ('luminescent_data', 'luminescent_pixeltable'))
       AS wanted (name, owner)
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

REVOKE ALL ON DATABASE luminescent_control, luminescent_data FROM PUBLIC;
GRANT CONNECT ON DATABASE luminescent_control
   TO luminescent_owner, luminescent_app, luminescent_worker, luminescent_keys, luminescent_backup,
      luminescent_maintenance;
GRANT CONNECT ON DATABASE luminescent_data TO luminescent_backup, luminescent_maintenance, luminescent_pixeltable;

\connect luminescent_control
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO luminescent_maintenance;

\connect luminescent_data
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO luminescent_maintenance;
-- Pixeltable makes its tables as they are needed; a backup must read those too.
ALTER DEFAULT PRIVILEGES FOR ROLE luminescent_pixeltable GRANT SELECT ON TABLES TO luminescent_backup;
ALTER DEFAULT PRIVILEGES FOR ROLE luminescent_pixeltable GRANT SELECT ON SEQUENCES TO luminescent_backup;
CREATE EXTENSION IF NOT EXISTS vector;
