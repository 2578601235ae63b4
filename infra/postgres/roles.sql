-- Roles and databases of an installation on an external PostgreSQL (16 or later, with the extension "vector").
-- What the embedded server gets from cloud/storage/roles.py; a test compares the two. May be run again at any time,
-- also to change passwords.
--
-- Each role's password comes from a variable of the environment, which other accounts cannot see, or from -v:
--
--   export LUMINESCENT_OWNER_PASSWORD=... LUMINESCENT_APP_PASSWORD=... LUMINESCENT_WORKER_PASSWORD=... \
--          LUMINESCENT_KEYS_PASSWORD=... LUMINESCENT_BACKUP_PASSWORD=... LUMINESCENT_MAINTENANCE_PASSWORD=... \
--          LUMINESCENT_PIXELTABLE_PASSWORD=...
--   psql -X -d postgres -f infra/postgres/roles.sql
--
-- Run it as a superuser. A managed server has none for you: run it there as the account that may make roles and
-- databases, with -v managed=1. It then leaves out what needs a superuser, and says so. What each role may touch inside
-- luminescent_control is granted by the migrations. pg_hba.conf remains yours: give these roles scram-sha-256, and none
-- of them trust.

\set ON_ERROR_STOP on
\getenv owner_password LUMINESCENT_OWNER_PASSWORD
\getenv app_password LUMINESCENT_APP_PASSWORD
\getenv worker_password LUMINESCENT_WORKER_PASSWORD
\getenv keys_password LUMINESCENT_KEYS_PASSWORD
\getenv backup_password LUMINESCENT_BACKUP_PASSWORD
\getenv maintenance_password LUMINESCENT_MAINTENANCE_PASSWORD
\getenv pixeltable_password LUMINESCENT_PIXELTABLE_PASSWORD

SET password_encryption = 'scram-sha-256';
\if :{?managed}
    -- Whoever makes a role may then act as it: make databases that it owns, and say what it grants.
    SET createrole_self_grant = 'set, inherit';
    \set attributes 'LOGIN'
    \echo 'managed: log_statement of the server must not be ddl or all while this runs, or passwords are logged'
\else
    -- The statements below hold passwords: keep them out of the server's log.
    SET log_statement = 'none';
    SET log_min_duration_statement = -1;
    SET log_min_error_statement = 'panic';
    \set attributes 'LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION'
\endif

SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['luminescent_owner', 'luminescent_app', 'luminescent_worker', 'luminescent_keys',
                    'luminescent_backup', 'luminescent_maintenance', 'luminescent_pixeltable']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE luminescent_owner       :attributes PASSWORD :'owner_password';
ALTER ROLE luminescent_app         :attributes PASSWORD :'app_password';
ALTER ROLE luminescent_worker      :attributes PASSWORD :'worker_password';
ALTER ROLE luminescent_keys        :attributes PASSWORD :'keys_password';
ALTER ROLE luminescent_backup      :attributes PASSWORD :'backup_password';
ALTER ROLE luminescent_maintenance :attributes PASSWORD :'maintenance_password';
ALTER ROLE luminescent_pixeltable  :attributes PASSWORD :'pixeltable_password';

\if :{?managed}
    \echo 'managed: pg_checkpoint and pg_switch_wal are not granted; erased bytes, unreadable without their key, stay in'
    \echo '         the write-ahead log until the server reuses it'
\else
    -- Erasure closes WAL segments and writes checkpoints.
    GRANT pg_checkpoint TO luminescent_maintenance;
\endif

SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0', name, owner)
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
\if :{?managed}
\else
    GRANT EXECUTE ON FUNCTION pg_switch_wal() TO luminescent_maintenance;
    GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO luminescent_maintenance;
\endif

\connect luminescent_data
\if :{?managed}
\else
    GRANT EXECUTE ON FUNCTION pg_switch_wal() TO luminescent_maintenance;
    GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO luminescent_maintenance;
\endif
-- Pixeltable makes its tables as they are needed; a backup must read those too.
ALTER DEFAULT PRIVILEGES FOR ROLE luminescent_pixeltable GRANT SELECT ON TABLES TO luminescent_backup;
ALTER DEFAULT PRIVILEGES FOR ROLE luminescent_pixeltable GRANT SELECT ON SEQUENCES TO luminescent_backup;
CREATE EXTENSION IF NOT EXISTS vector;
