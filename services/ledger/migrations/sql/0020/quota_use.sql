-- What each quota has counted in its newest window: one row a quota.
CREATE TABLE quota_use (
  tenant_id uuid NOT NULL,
  quota_id text NOT NULL,               -- the control entry that first set it
  user_id uuid,                         -- whom its scope names, if anybody
  use_stamp uuid,
  window_start timestamptz,             -- null: tasks in flight, at any moment
  spent bigint,                         -- calls, tokens or tasks
  reserved bigint,
  spent_cents numeric,                  -- or money
  reserved_cents numeric,
  updated_at timestamptz,
  PRIMARY KEY (tenant_id, quota_id)
);

DO $$
DECLARE
  current_tenant CONSTANT text := $x$(SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)$x$;
  current_users CONSTANT text :=
    $x$(SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]$x$;
BEGIN
  ALTER TABLE quota_use ENABLE ROW LEVEL SECURITY;
  ALTER TABLE quota_use FORCE ROW LEVEL SECURITY;
  GRANT SELECT ON quota_use TO app_ro, app_rw, skeldir_auditor, skeldir_operator;
  GRANT SELECT, INSERT, UPDATE, DELETE ON quota_use TO skeldir_ledger;
  CREATE POLICY ledger_writes ON quota_use TO skeldir_ledger USING (true) WITH CHECK (true);
  CREATE POLICY operator_reads ON quota_use FOR SELECT TO skeldir_operator USING (true);
  EXECUTE format('CREATE POLICY auditor_reads ON quota_use FOR SELECT TO skeldir_auditor USING (tenant_id = %s)',
                 current_tenant);
  -- As with the quotas: what bounds a whole tenant is not each of its users' to see.
  EXECUTE format('CREATE POLICY user_reads ON quota_use FOR SELECT TO app_ro, app_rw USING (tenant_id = %s AND user_id = ANY (%s))',
                 current_tenant, current_users);
END
$$;
