-- Calls by provider, model and status; latencies are of attempted calls only.
-- As app_user; the output is 04_provider_cost_latency_distribution.csv of `skeldir dashboards export`. Row-level security needs the two settings:
--   psql -v tenant=<uuid> -v users=<uuid>[,<uuid>...] --csv -f 04_provider_cost_latency_distribution.sql "$SKELDIR_DATABASE_URL"
-- Where they are set already (PGOPTIONS, or the session), leave both variables out.
\if :{?tenant}
\o /dev/null
SELECT set_config('app.current_tenant_id', :'tenant', false), set_config('app.current_user_id', :'users', false);
\o
\endif
SELECT provider, model, status, call_count, total_cost_cents, min_latency_ms, avg_latency_ms, max_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms
FROM dashboard_provider_cost_latency
ORDER BY provider, model, status;
