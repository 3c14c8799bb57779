-- The roles of Skeldir. Run by a superuser in the database that Skeldir uses; running it again changes nothing.
-- Passwords of the login roles are set apart: ALTER ROLE ... PASSWORD ...
--
--   skeldir_owner     owns the tables and runs migrations; no service connects as it
--   skeldir_ledger    the ledger service: appends events, writes projections of every tenant, never changes an event
--   app_user          readers (dashboards, psql, the gateway): sees one tenant and user at a time
--   app_ro, app_rw    what app_user may read, and write (an application's own rights; the books are not among them)
--   skeldir_auditor   reads one whole tenant; only through the ledger service, for keys that name no user
--   skeldir_operator  reads across tenants; only through the ledger service, which records each such read
--
-- NOINHERIT: a member of another role has its eyes only where it puts them on (SET ROLE). Set before the grants, since
-- PostgreSQL 16 and later note it with the grant.
DO $$
DECLARE
  wanted record;
BEGIN
  FOR wanted IN
    SELECT * FROM (VALUES
      ('skeldir_owner', 'LOGIN NOINHERIT'), ('skeldir_ledger', 'LOGIN NOINHERIT'), ('app_user', 'LOGIN INHERIT'),
      ('app_ro', 'NOLOGIN'), ('app_rw', 'NOLOGIN'), ('skeldir_auditor', 'NOLOGIN'), ('skeldir_operator', 'NOLOGIN')
    ) AS roles (name, attributes)
  LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
      EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.attributes);
    END IF;
    EXECUTE format('ALTER ROLE %I %s NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', wanted.name, wanted.attributes);
  END LOOP;
  EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO skeldir_owner, skeldir_ledger, app_user', current_database());
END
$$;

GRANT app_ro, app_rw TO app_user;
GRANT app_ro, skeldir_auditor, skeldir_operator TO skeldir_ledger;
-- So that whoever has the owner's password can rebuild and verify the books, as the role that may.
GRANT skeldir_ledger TO skeldir_owner;

-- Where `skeldir ledger rebuild` makes tables beside those that are read; empty otherwise.
CREATE SCHEMA IF NOT EXISTS rebuilding AUTHORIZATION skeldir_owner;
GRANT USAGE ON SCHEMA rebuilding TO skeldir_ledger;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO skeldir_owner;
GRANT USAGE ON SCHEMA public TO app_ro, app_rw, app_user, skeldir_ledger, skeldir_auditor, skeldir_operator;
