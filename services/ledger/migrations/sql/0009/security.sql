DO $$
DECLARE
  current_tenant CONSTANT text := $x$(SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)$x$;
  current_users CONSTANT text :=
    $x$(SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]$x$;
  of_users CONSTANT text[] := ARRAY['call_sums_of_users', 'call_latencies_of_users', 'calls_under_way'];
  of_tenants CONSTANT text[] := ARRAY['call_sums_of_tenants', 'call_latencies_of_tenants'];
  name text;
BEGIN
  FOREACH name IN ARRAY of_users || of_tenants LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO skeldir_ledger', name);
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
    EXECUTE format('CREATE POLICY auditor_reads ON %I FOR SELECT TO skeldir_auditor USING (tenant_id = %s)',
                   name, current_tenant);
  END LOOP;
  FOREACH name IN ARRAY of_users LOOP
    EXECUTE format('CREATE POLICY user_reads ON %I FOR SELECT TO app_ro, app_rw USING (tenant_id = %s AND user_id = ANY (%s))',
                   name, current_tenant, current_users);
  END LOOP;
END
$$;
REVOKE ALL ON FUNCTION roll_up(call_figure[]), roll_up_calls(), latency_floor(bigint), latency_width(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION roll_up(call_figure[]), roll_up_calls(), latency_floor(bigint) TO skeldir_ledger;
GRANT EXECUTE ON FUNCTION latency_width(bigint) TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;

-- The calls that are there already, as the one role that sees them all and writes.
SET LOCAL ROLE skeldir_ledger;
DO $$
DECLARE
  figures call_figure[];
  last_id uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
  LOOP
    WITH page AS MATERIALIZED (SELECT * FROM llm_api_calls WHERE id > last_id ORDER BY id LIMIT 20000)
    SELECT array_agg(ROW(1, tenant_id, user_id, created_at, provider, model, task_type, status,
      coalesce(block_reason, failure_reason, ''), was_cached, provider_attempted, latency_ms, cost_cents)::call_figure),
      (array_agg(id ORDER BY id DESC))[1]
    INTO figures, last_id FROM page;
    EXIT WHEN figures IS NULL;
    PERFORM roll_up(figures);
  END LOOP;
END
$$;
RESET ROLE;
