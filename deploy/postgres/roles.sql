-- The roles of Skeldir. Run once by a superuser in the database `skeldir`; running it again changes nothing.
-- Passwords of the login roles are set apart: ALTER ROLE ... PASSWORD ...
--
--   skeldir_owner     owns the tables and runs migrations; no service connects as it
--   skeldir_ledger    the ledger service: appends events, writes projections of every tenant, never deletes an event
--   app_user          readers (dashboards, psql, the gateway): sees one tenant and user at a time
--   app_ro, app_rw    what app_user may read, and write (an application's own rights; the books are not among them)
--   skeldir_operator  reads across tenants; only through the ledger service, which records each such read
DO $$
DECLARE
  wanted record;
BEGIN
  FOR wanted IN
    SELECT * FROM (VALUES
      ('skeldir_owner', 'LOGIN'), ('skeldir_ledger', 'LOGIN'), ('app_user', 'LOGIN'),
      ('app_ro', 'NOLOGIN'), ('app_rw', 'NOLOGIN'), ('skeldir_operator', 'NOLOGIN')
    ) AS roles (name, login)
  LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
      EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.login);
    END IF;
    EXECUTE format('ALTER ROLE %I %s NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', wanted.name, wanted.login);
  END LOOP;
END
$$;

GRANT app_ro, app_rw TO app_user;
-- WITH SET, not INHERIT: the service has a reader's eyes only where it puts them on.
GRANT app_ro, skeldir_operator TO skeldir_ledger WITH INHERIT FALSE, SET TRUE;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO skeldir_owner;
GRANT USAGE ON SCHEMA public TO app_ro, app_rw, app_user, skeldir_ledger, skeldir_operator;
REVOKE CREATE, TEMPORARY ON DATABASE skeldir FROM PUBLIC;
GRANT CONNECT ON DATABASE skeldir TO skeldir_owner, skeldir_ledger, app_user;
