-- Circuit breakers, and the hours in which a shutoff held or could have.
-- As app_user; the output is 03_breaker_shutoff_state.csv of `skeldir dashboards export`. Row-level security needs the two settings:
--   psql -v tenant=<uuid> -v users=<uuid>[,<uuid>...] --csv -f 03_breaker_shutoff_state.sql "$SKELDIR_DATABASE_URL"
-- Where they are set already (PGOPTIONS, or the session), leave both variables out.
\if :{?tenant}
\o /dev/null
SELECT set_config('app.current_tenant_id', :'tenant', false), set_config('app.current_user_id', :'users', false);
\o
\endif
SELECT state_type, tenant_id, user_id, state_key, state_value, failure_count, opened_at, updated_at
FROM dashboard_breaker_shutoff_state
ORDER BY state_type, tenant_id, user_id, state_key;
