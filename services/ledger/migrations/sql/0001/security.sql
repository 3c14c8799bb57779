-- Row-level security, enabled and forced (so for the owner too) on every table.
--
--   app_ro, app_rw     rows of the tenant and the user in the transaction's settings. app.current_user_id may name several
--                      users, separated by commas: a dashboard over some users of one tenant is one query.
--   skeldir_auditor    rows of the tenant in the transaction's settings
--   skeldir_operator   every row, to read
--   skeldir_ledger     every row, to write
-- An empty setting is no tenant, not an error. (SELECT ...): evaluated once a query, not once a row.
DO $$
DECLARE
  current_tenant CONSTANT text := $x$(SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid)$x$;
  current_users CONSTANT text :=
    $x$(SELECT string_to_array(nullif(current_setting('app.current_user_id', true), ''), ',')::uuid[])::uuid[]$x$;
  of_users CONSTANT text[] := ARRAY[
    'events', 'llm_api_calls', 'llm_monthly_costs', 'llm_monthly_budget_state', 'llm_hourly_shutoff_state',
    'llm_breaker_state', 'llm_budget_reservations', 'investigations', 'budget_optimization_jobs', 'kill_switches',
    'tenant_limits', 'api_keys'];
  of_tenants CONSTANT text[] := ARRAY['tenant_budget_state'];
  internal CONSTANT text[] := ARRAY['checkpoints', 'skipped_entries', 'dead_letters', 'read_audit'];
  append_only CONSTANT text[] := ARRAY['events', 'read_audit'];
  name text;
BEGIN
  FOREACH name IN ARRAY of_users || of_tenants || internal LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('GRANT SELECT ON %I TO app_ro, app_rw, skeldir_auditor, skeldir_operator', name);
    EXECUTE format('GRANT SELECT, INSERT ON %I TO skeldir_ledger', name);
    IF NOT name = ANY (append_only) THEN
      -- DELETE: a rebuild replaces the projections in one transaction.
      EXECUTE format('GRANT UPDATE, DELETE ON %I TO skeldir_ledger', name);
    END IF;
    EXECUTE format('CREATE POLICY ledger_writes ON %I TO skeldir_ledger USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY operator_reads ON %I FOR SELECT TO skeldir_operator USING (true)', name);
  END LOOP;
  FOREACH name IN ARRAY of_users LOOP
    EXECUTE format('CREATE POLICY user_reads ON %I FOR SELECT TO app_ro, app_rw USING (tenant_id = %s AND user_id = ANY (%s))',
                   name, current_tenant, current_users);
  END LOOP;
  FOREACH name IN ARRAY of_users || of_tenants LOOP
    EXECUTE format('CREATE POLICY auditor_reads ON %I FOR SELECT TO skeldir_auditor USING (tenant_id = %s)',
                   name, current_tenant);
  END LOOP;
END
$$;

-- Alembic's own table exists before the first version runs.
ALTER TABLE alembic_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE alembic_version FORCE ROW LEVEL SECURITY;
CREATE POLICY owner_migrates ON alembic_version TO skeldir_owner USING (true) WITH CHECK (true);
CREATE POLICY services_read ON alembic_version FOR SELECT TO skeldir_ledger, skeldir_operator USING (true);
GRANT SELECT ON alembic_version TO skeldir_ledger, skeldir_operator;
-- Anyone who may connect may ask which schema this is; as its owner, because the table itself shows them nothing.
CREATE FUNCTION schema_version() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS 'SELECT version_num FROM public.alembic_version';
REVOKE ALL ON FUNCTION schema_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION schema_version() TO app_ro, app_rw, skeldir_auditor, skeldir_ledger, skeldir_operator;

GRANT SELECT ON dashboard_monthly_spend, dashboard_cache_hit_rate, dashboard_breaker_shutoff_state,
  dashboard_provider_cost_latency TO app_ro, app_rw, skeldir_auditor, skeldir_operator, skeldir_ledger;
REVOKE ALL ON FUNCTION add_breakdown(jsonb, jsonb), refuse_change() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION add_breakdown(jsonb, jsonb), refuse_change() TO skeldir_ledger;
