DROP VIEW dashboard_monthly_spend, dashboard_cache_hit_rate, dashboard_breaker_shutoff_state, dashboard_provider_cost_latency;
DROP TABLE events, checkpoints, skipped_entries, dead_letters, read_audit, llm_api_calls, llm_monthly_costs,
  llm_monthly_budget_state, tenant_budget_state, llm_hourly_shutoff_state, llm_breaker_state, llm_budget_reservations,
  investigations, budget_optimization_jobs, kill_switches, tenant_limits, api_keys;
DROP FUNCTION add_breakdown(jsonb, jsonb);
DROP FUNCTION refuse_change();
DROP FUNCTION schema_version();
DROP POLICY owner_migrates ON alembic_version;
DROP POLICY services_read ON alembic_version;
ALTER TABLE alembic_version NO FORCE ROW LEVEL SECURITY;
ALTER TABLE alembic_version DISABLE ROW LEVEL SECURITY;
REVOKE ALL ON alembic_version FROM skeldir_ledger, skeldir_operator;
