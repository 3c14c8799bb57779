-- What operators set beside limits (docs/limits.md), folded from the control stream. A row that is taken back stays, with
-- who did it, and is not in force.
CREATE TABLE tenant_quotas (
  quota_key text PRIMARY KEY,           -- scope, unit and window as canonical JSON
  tenant_id uuid NOT NULL,
  user_id uuid,
  key_id text,
  provider text,
  model text,
  task_type text,
  unit text NOT NULL,
  quota_window text,                    -- null: tasks in flight, at any moment
  set_stamp uuid,
  in_force boolean NOT NULL,
  most bigint,                          -- calls, tokens or tasks
  most_cents numeric,                   -- or money
  shadow boolean,
  actor text,
  reason text,
  changed_at timestamptz NOT NULL
);
CREATE INDEX tenant_quotas_by_tenant ON tenant_quotas (tenant_id, quota_key);
CREATE TABLE task_bounds (
  bounds_key text PRIMARY KEY,
  tenant_id uuid,                       -- null: every tenant
  task_type text NOT NULL,
  set_stamp uuid,
  in_force boolean NOT NULL,
  timeout_ms bigint,
  max_cost_cents numeric,
  max_tool_calls bigint,
  actor text,
  reason text,
  changed_at timestamptz NOT NULL
);
CREATE INDEX task_bounds_by_tenant ON task_bounds (tenant_id, bounds_key);
CREATE TABLE downgrades (
  downgrade_key text PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid,
  task_type text,
  model_pattern text NOT NULL,
  budget_window text NOT NULL,
  set_stamp uuid,
  in_force boolean NOT NULL,
  to_model text,
  from_percent integer,
  shadow boolean,
  actor text,
  reason text,
  changed_at timestamptz NOT NULL
);
CREATE INDEX downgrades_by_tenant ON downgrades (tenant_id, downgrade_key);

DO $$
DECLARE
  current_tenant CONSTANT text := $x$(SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)$x$;
  current_users CONSTANT text :=
    $x$(SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]$x$;
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tenant_quotas', 'task_bounds', 'downgrades'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO skeldir_ledger', name);
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
    EXECUTE format('CREATE POLICY auditor_reads ON %I FOR SELECT TO skeldir_auditor USING (tenant_id = %s)',
                   name, current_tenant);
  END LOOP;
  -- What bounds a whole tenant is not each of its users' to see, as its limits are not.
  FOREACH name IN ARRAY ARRAY['tenant_quotas', 'downgrades'] LOOP
    EXECUTE format('CREATE POLICY user_reads ON %I FOR SELECT TO app_ro, app_rw USING (tenant_id = %s AND user_id = ANY (%s))',
                   name, current_tenant, current_users);
  END LOOP;
END
$$;
